"""Section `wandb` of params.yaml, and what W&B's own variables say in its place."""

import os
import sys
from dataclasses import dataclass, replace
from typing import Literal, cast

from sae.errors import ConfigError

Mode = Literal["offline", "online", "disabled"]


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Section `wandb`."""

    mode: Mode = "offline"
    """`online` needs a login; what the server did not get while the run went on, `sae sync LOG` sends later. W&B's own variables
    (WANDB_MODE and so on) are obeyed before this section."""
    project: str = "sae"
    entity: str | None = None
    directory: str = "logs"
    """Where wandb writes its files, in a folder `wandb`; those of an offline run can be read with `wandb leet`."""
    timeout: float = 5.0
    """Seconds that one attempt to reach the server may take (no step waits for it), and that the run waits for W&B at its end."""

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise ConfigError(f"'timeout' = {self.timeout}: must be positive")


MODES = {"dryrun": "offline", "run": "online", "shared": "online", "off": "disabled"}
"""Other words for them that W&B takes."""


def as_environment_says(config: WandbConfig) -> WandbConfig:
    """The config with what W&B's own variables say in its place: WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and WANDB_DIR, and
    WANDB_DISABLED. Raises `ConfigError` for a mode that is none."""
    found = {name: os.environ.get(f"WANDB_{name}", "").strip() for name in ("MODE", "PROJECT", "ENTITY", "DIR", "DISABLED")}
    mode = MODES.get(found["MODE"].lower(), found["MODE"].lower()) or config.mode
    if mode not in ("offline", "online", "disabled"):
        raise ConfigError(f"WANDB_MODE={found['MODE']}: W&B's modes are online, offline and disabled; set it to one, or unset it")
    if found["DISABLED"].lower() in ("true", "1", "yes"):
        mode = "disabled"
    if mode != config.mode:
        print(f"wandb: {mode}, as the environment says (wandb.mode: {config.mode})", file=sys.stderr)
    return replace(
        config,
        mode=cast(Mode, mode),
        project=found["PROJECT"] or config.project,
        entity=found["ENTITY"] or config.entity,
        directory=found["DIR"] or config.directory,
    )
