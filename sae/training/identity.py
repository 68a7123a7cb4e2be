"""What run a checkpoint is of: what was asked for, and which of that decides the dictionary that comes out."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from sae.config import build
from sae.errors import ConfigError
from sae.training.config import TrainConfig
from sae.training.data import Feed, IteratorFeed, fingerprint

DECIDING = ("n_features", "n_steps", "batch_size", "seed", "data_seed", "target_l0", "control_until", "engine")
"""Fields of `TrainConfig`, beside those of its recipe, that a dictionary's weights depend on. The others say what is recorded of
the run, and how often: a run goes on with other values of those."""
USED_UP = ("n_steps", "most_learning_rate")
"""Fields of `Recipe` that are nothing more than a way to its learning rate."""


def identity_of(configs: Sequence[TrainConfig], feed: Feed | IteratorFeed, data: str | None) -> dict[str, Any]:
    """All that was asked for: the configs as given, and what tells the rows from others (`data` is their digest, if known)."""
    identity = {"configs": [dataclasses.asdict(config) for config in configs], "rows": fingerprint(feed.first())}
    of_feed = getattr(getattr(feed, "source", None), "identity", None)
    return {**identity, **({} if of_feed is None else {"feed": of_feed}), "data": data}


def deciding(identity: dict[str, Any]) -> dict[str, Any]:
    """The part of an identity that decides the result. What a config leaves to its recipe is written out in it, so that two ways
    to say the same are the same."""
    return {**identity, "configs": [_deciding(config) for config in identity["configs"]]}


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    try:
        built = build(TrainConfig, config, "train")
    except ConfigError:  # of another version: as it stands it is none of ours
        return config
    recipe = dataclasses.asdict(built.settled())
    of_recipe = {name: value for name, value in recipe.items() if name not in USED_UP}
    return {**{name: getattr(built, name) for name in DECIDING}, **of_recipe}
