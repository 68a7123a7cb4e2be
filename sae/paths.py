"""Paths as people give them: in Python, on the command line, in params.yaml."""

from pathlib import Path

from sae.errors import ConfigError


def given(path: str | Path) -> Path:
    """The path with `~` and `~name` as the home folders that they stand for: a shell does not see all of them, Python none.

    Raises `ConfigError` for the home of a user that is not known here."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"'{path}' begins with the home folder of a user that is not known here; write the path out") from None
