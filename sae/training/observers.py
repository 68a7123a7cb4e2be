"""Who watches a run: the local log always, W&B (the only import of it), a progress bar. None of them touches the training."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from sae.errors import ConfigError
from sae.progress import ProgressBar

CLOCKED = ("rows_per_second", "fraction_of_roofline", "seconds")
"""Values that depend on the machine's speed: in the logs, never in an artefact."""


@runtime_checkable
class Observer(Protocol):
    """Told of a run as it goes."""

    def record(self, step: int, values: dict[str, Any]) -> None:
        """Scalars, and histograms as (counts, edges), after `step` steps."""
        ...

    def event(self, step: int, name: str, values: dict[str, Any]) -> None:
        """Something that happens a few times a run, such as a resampling."""
        ...

    def advance(self, n_steps: int) -> None: ...

    def close(self) -> None: ...

    def state(self) -> Any:
        """What this observer must know when the run goes on in another process, as JSON keeps it; into every checkpoint."""
        ...

    def restore(self, state: Any) -> None:
        """Go on from where `state` was taken."""
        ...


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Section `wandb`."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    """`online` needs a login; where the server does not answer in time the run goes on offline."""
    project: str = "sae"
    entity: str | None = None
    directory: str = "logs"
    """Where offline runs are written; `wandb sync` sends them later."""
    timeout: float = 5.0
    """Seconds to wait for the server at the start."""

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise ConfigError(f"'timeout' = {self.timeout}: must be positive")


class History:
    """Keeps what does not depend on the clock, to be saved with the dictionary: the same bits in every run."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def record(self, step: int, values: dict[str, Any]) -> None:
        kept = {name: value for name, value in values.items() if isinstance(value, int | float) and name not in CLOCKED}
        self.rows.append({"step": step, **kept})

    def event(self, step: int, name: str, values: dict[str, Any]) -> None:
        self.rows.append({"step": step, "event": name, **values})

    def advance(self, n_steps: int) -> None: ...

    def close(self) -> None: ...

    def state(self) -> list[dict[str, Any]]:
        return self.rows

    def restore(self, state: list[dict[str, Any]]) -> None:
        self.rows = list(state)

    def to_jsonl(self) -> str:
        return "".join(json.dumps(row) + "\n" for row in self.rows)


class JsonLog:
    """Every record as a line of JSON, flushed at once."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, default=_plain) + "\n")
        self._file.flush()

    def record(self, step: int, values: dict[str, Any]) -> None:
        self._write({"step": step, **values})

    def event(self, step: int, name: str, values: dict[str, Any]) -> None:
        self._write({"step": step, "event": name, **values})

    def advance(self, n_steps: int) -> None: ...

    def close(self) -> None:
        self._file.close()

    def state(self) -> int:
        """How long the log is."""
        return self._file.tell()

    def restore(self, state: int) -> None:
        """Drop what was logged after the checkpoint: it comes again."""
        self._file.truncate(state)


class Progress:
    """The bar."""

    def __init__(self, label: str, n_steps: int):
        self._bar = ProgressBar(label, n_steps)
        self._bar.__enter__()
        self._note = ""

    def record(self, step: int, values: dict[str, Any]) -> None:
        self._note = f"loss {values['loss']:.1f}  L0 {values['l0']:.1f}  fvu {values['fvu']:.3f}  dead {values['n_dead']}"

    def event(self, step: int, name: str, values: dict[str, Any]) -> None: ...

    def advance(self, n_steps: int) -> None:
        self._bar.advance(n_steps, self._note)

    def close(self) -> None:
        self._bar.__exit__(None, None, None)


class WandbLog:
    """Mirrors the records to W&B, against a step counter of our own (a resumed offline run starts counting afresh)."""

    def __init__(self, config: WandbConfig, name: str, params: dict[str, Any]):
        import wandb  # half a second, and not wanted by those who switch it off

        try:
            Path(config.directory).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"wandb.directory '{config.directory}' cannot be made: {error}") from None
        self._wandb = wandb
        mode = config.mode
        common: dict[str, Any] = {
            "project": config.project,
            "entity": config.entity,
            "name": name,
            "config": params,
            "dir": config.directory,
        }
        try:
            settings = wandb.Settings(init_timeout=config.timeout, silent=True, disable_git=True)
            self._run = wandb.init(mode=mode, settings=settings, **common)
        except (wandb.errors.CommError, wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
            print(f"wandb: {type(error).__name__}: {error}; going on offline (wandb sync sends it later)", file=sys.stderr)
            wandb.teardown()
            self._run = wandb.init(mode="offline", settings=wandb.Settings(silent=True, disable_git=True), **common)
        self._run.define_metric("*", step_metric="step")

    @property
    def where(self) -> str:
        """The run's address, or the folder it is written to."""
        return str(Path(self._run.dir).parent if self._run.offline else self._run.url)

    def record(self, step: int, values: dict[str, Any]) -> None:
        row: dict[str, Any] = {"step": step}
        for name, value in values.items():
            row[name] = self._wandb.Histogram(np_histogram=value) if isinstance(value, tuple) else value
        self._run.log(row)

    def event(self, step: int, name: str, values: dict[str, Any]) -> None:
        self._run.log({"step": step, **{f"{name}/{key}": value for key, value in values.items()}})

    def advance(self, n_steps: int) -> None: ...

    def close(self) -> None:
        self._run.finish()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else str(value)
