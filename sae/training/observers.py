"""Who watches a run: the local log always, W&B through a mirror of that log, a progress bar. None touches the training."""

import json
import os
import secrets
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO, runtime_checkable

from sae import artefact
from sae.errors import ConfigError
from sae.progress import ProgressBar
from sae.training.mirror_folder import MirroredRun, MirrorFolder

CLOCKED = ("rows_per_second", "fraction_of_roofline", "seconds")
"""Values that depend on the machine's speed: in the logs, never in an artefact."""
CLOCKED_EVENTS = ("screen",)
"""Events that do."""


@runtime_checkable
class Observer(Protocol):
    """Told of a run as it goes."""

    def start(self, state: Any) -> None:
        """Before the first step: `state` is what `state()` said at the checkpoint that the run goes on from, or None."""
        ...

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


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Section `wandb`."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    """`online` needs a login; what the server did not get while the run went on, `sae sync LOG` sends later."""
    project: str = "sae"
    entity: str | None = None
    directory: str = "logs"
    """Where wandb writes its files, in a folder `wandb`; those of an offline run can be read with `wandb leet`."""
    timeout: float = 5.0
    """Seconds that one attempt to reach the server may take (no step waits for it), and that the run waits for W&B at its end."""

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise ConfigError(f"'timeout' = {self.timeout}: must be positive")


class History:
    """Keeps what does not depend on the clock, to be saved with the dictionary: the same bits in every run."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def start(self, state: list[dict[str, Any]] | None) -> None:
        self.rows = list(state or [])

    def record(self, step: int, values: dict[str, Any]) -> None:
        kept = {name: value for name, value in values.items() if isinstance(value, int | float) and name not in CLOCKED}
        self.rows.append({"step": step, **kept})

    def event(self, step: int, name: str, values: dict[str, Any]) -> None:
        if name not in CLOCKED_EVENTS:
            self.rows.append({"step": step, "event": name, **values})

    def advance(self, n_steps: int) -> None: ...

    def state(self) -> list[dict[str, Any]]:
        return self.rows

    def close(self) -> None: ...


class JsonLog:
    """Every record as a line of JSON, flushed at once; what W&B is told is read from here.

    A run that goes on keeps the lines that were there at its checkpoint; those that the killed run wrote later, and the one that
    it was writing, go.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: TextIO | None = None
        self._n_lines = 0

    def start(self, state: int | None) -> None:
        kept = _first_lines(self.path, state or 0)
        self.close()
        # A new file in the place of the old one, never the old one cut: its mirror may still be reading it.
        artefact.write_text(self.path, "".join(kept))
        self._file, self._n_lines = open(self.path, "a", encoding="utf-8"), len(kept)  # noqa: SIM115

    def _write(self, row: dict[str, Any]) -> None:
        assert self._file is not None, "not started"
        self._file.write(json.dumps(row, default=_plain) + "\n")
        self._file.flush()
        self._n_lines += 1

    def record(self, step: int, values: dict[str, Any]) -> None:
        self._write({"step": step, **values})

    def event(self, step: int, name: str, values: dict[str, Any]) -> None:
        self._write({"step": step, "event": name, **values})

    def advance(self, n_steps: int) -> None: ...

    def state(self) -> int:
        return self._n_lines

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Progress:
    """The bar."""

    def __init__(self, label: str, n_steps: int):
        self._label, self._n_steps, self._done = label, n_steps, 0
        self._bar: ProgressBar | None = None
        self._note = ""

    def start(self, state: int | None) -> None:
        self._bar = ProgressBar(self._label, self._n_steps)
        self._bar.__enter__()
        self.advance(state or 0)

    def record(self, step: int, values: dict[str, Any]) -> None:
        self._note = f"loss {values['loss']:.1f}  L0 {values['l0']:.1f}  fvu {values['fvu']:.3f}  dead {values['n_dead']}"

    def event(self, step: int, name: str, values: dict[str, Any]) -> None: ...

    def advance(self, n_steps: int) -> None:
        assert self._bar is not None, "not started"
        self._done += n_steps
        self._bar.advance(n_steps, self._note)

    def state(self) -> int:
        return self._done

    def close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)


class WandbLog:
    """Starts the process that mirrors a log to W&B, and ends it. Rows reach W&B through the `JsonLog` of the same `log` alone.

    Nothing here waits but `close`, and nothing raises: whatever W&B does, the run goes on and the log is whole. Trouble is told
    on stderr, once.
    """

    def __init__(self, config: WandbConfig, name: str, params: dict[str, Any], *, log: Path):
        try:
            Path(config.directory).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"wandb.directory '{config.directory}' cannot be made: {error}") from None
        self._folder, self._timeout, self._told = MirrorFolder(log), config.timeout, ""
        self._run = MirroredRun(
            id=secrets.token_hex(4),
            name=name,
            params=params,
            mode=config.mode,
            project=config.project,
            entity=config.entity,
            directory=config.directory,
            timeout=config.timeout,
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, state: str | None) -> None:
        """`state` is the id of the W&B run to go on with."""
        self._run = replace(self._run, id=state or self._run.id)
        if self._run.mode != "disabled":
            self._start()

    def state(self) -> str:
        return self._run.id

    @property
    def where(self) -> str:
        """The folder that an offline run is written to (W&B puts the time for the star), or the end of the run's address."""
        return self._run.where

    def record(self, step: int, values: dict[str, Any]) -> None:
        if self._process is not None:
            self._tell(self._process)

    def event(self, step: int, name: str, values: dict[str, Any]) -> None: ...

    def advance(self, n_steps: int) -> None: ...

    def close(self) -> None:
        """Waits at most `timeout` seconds; what is not sent then, the mirror goes on with, or leaves to `sae sync`."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with process.stdin, suppress(BrokenPipeError):  # it is dead, which is told below
            process.stdin.write(b"end")
        try:
            process.wait(self._timeout)
        except subprocess.TimeoutExpired:
            _left.append(process)
            self._say(f"still sending after {self._timeout:g} s; it goes on without this run. To see to it later: {self._remedy}")
            return
        self._tell(process)

    @property
    def _remedy(self) -> str:
        return f"sae sync {self._folder.log}"

    def _start(self) -> None:
        # The mirror imports this very `sae`, and no folder of the user's that happens to be called wandb (-P).
        path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self._folder.write_run(self._run)
            with open(self._folder.output, "w", encoding="utf-8") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "sae.training.mirror", str(self._folder.log)],
                    stdin=subprocess.PIPE,  # held, never written to until the end: it closes when this process dies
                    stdout=output,
                    stderr=output,
                    bufsize=0,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
                    start_new_session=True,  # Ctrl-C is for the run
                )
        except OSError as error:
            self._say(f"its process cannot be started ({error}); send the log later with: {self._remedy}")

    def _tell(self, process: subprocess.Popen[bytes]) -> None:
        """A small file is looked for and a child asked after: some 10 µs."""
        if self._told:
            return
        if trouble := self._folder.read_trouble():
            self._say(trouble)
        elif process.poll():
            self._say(
                f"its process ended with {process.returncode} (see {self._folder.output}); send the rest with: {self._remedy}"
            )

    def _say(self, text: str) -> None:
        self._told = text
        print(f"wandb: {text}", file=sys.stderr, flush=True)


_left: list[subprocess.Popen[bytes]] = []
"""Mirrors that outlive their run: kept, as Python warns of a process that nobody waited for."""


def _first_lines(path: Path, n_lines: int) -> list[str]:
    """The first whole lines of a log; fewer where it was deleted or cut: the checkpoint has all that the run needs."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [line for line in islice(file, n_lines) if line.endswith("\n")]
    except FileNotFoundError:
        return []


def _plain(value: Any) -> Any:
    """Arrays and scalars of numpy and torch as lists and numbers; anything else by its name."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
