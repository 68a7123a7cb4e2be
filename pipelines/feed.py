"""Where training's rows come from: what section `train` of params.yaml says of that, beside its `TrainConfig`."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from sae.config import build
from sae.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FeedConfig:
    """Of section `train`."""

    source: Literal["store", "live"] = "store"
    """`store`: the harvest's, on the disk. `live`: the forward pass runs while training does, and nothing is stored; then
    `harvest.n_rows` are the rows of an epoch, and the stage `harvest` writes a record of a few kB in the store's place."""
    live_buffer_rows: int | None = None
    """Rows in memory, in `harvest.dtype`; null: 262,144. More mix better (docs/training.md, "Live")."""

    def __post_init__(self) -> None:
        if self.live_buffer_rows is not None and self.live_buffer_rows < 1:
            raise ConfigError(f"'live_buffer_rows' = {self.live_buffer_rows}: must be at least 1")


_NAMES = frozenset(field.name for field in fields(FeedConfig))


def feed_config(params: dict[str, Any]) -> FeedConfig:
    """What section `train` says of the feed."""
    section = params.get("train")
    given = section if isinstance(section, dict) else {}
    return build(FeedConfig, {name: value for name, value in given.items() if name in _NAMES}, "train")


def train_params(params: dict[str, Any]) -> dict[str, Any]:
    """`params` with what is `TrainConfig`'s alone in section `train`."""
    section = params.get("train")
    if not isinstance(section, dict):
        return params  # whose reader words the error
    return {**params, "train": {name: value for name, value in section.items() if name not in _NAMES}}
