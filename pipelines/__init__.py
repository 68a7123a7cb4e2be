"""The stages. Whoever runs one under DVC ends with it, from here on: before anything heavy is imported."""

from pipelines import orphan

orphan.watch()
