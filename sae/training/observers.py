"""Who watches a run: the local log always, W&B through a mirror of that log, a progress bar. None touches the training."""

import errno
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

from sae import artefact
from sae.errors import ConfigError, DiskError, disk_told, raise_if_of_disk
from sae.paths import given
from sae.progress import ProgressBar, is_watched
from sae.training.mirror_folder import MirroredRun, MirrorFolder
from sae.training.wandb_config import WandbConfig, as_environment_says

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
    it was writing, go. Where the disk takes no line more, `DiskError` says so; that line is part of the state, so that the run
    that goes on writes it.
    """

    def __init__(self, path: str | Path):
        self.path = given(path)
        self._file: BinaryIO | None = None
        self._n_lines = 0
        self._unwritten = b""

    def start(self, state: int | dict[str, Any] | None) -> None:
        known: dict[str, Any] = state if isinstance(state, dict) else {"n_lines": state or 0, "unwritten": ""}
        kept = _first_lines(self.path, known["n_lines"])
        self.close()
        # A new file in the place of the old one, never the old one cut: its mirror may still be reading it.
        artefact.write_text(self.path, "".join([*kept, known["unwritten"]]))
        with disk_told(f"writing {self.path}"):
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self._n_lines, self._unwritten = len(kept) + bool(known["unwritten"]), b""

    def _write(self, row: dict[str, Any]) -> None:
        assert self._file is not None, "not started"
        line = (json.dumps(row, default=_plain) + "\n").encode()
        end = self._file.seek(0, os.SEEK_END)
        try:
            with disk_told(f"writing {self.path}"):
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except DiskError:
            self._unwritten = line
            with suppress(OSError):
                self._file.truncate(end)  # half a line
            raise
        self._n_lines += 1

    def record(self, step: int, values: dict[str, Any]) -> None:
        self._write({"step": step, **values})

    def event(self, step: int, name: str, values: dict[str, Any]) -> None:
        self._write({"step": step, "event": name, **values})

    def advance(self, n_steps: int) -> None: ...

    def state(self) -> int | dict[str, Any]:
        if self._unwritten:
            return {"n_lines": self._n_lines, "unwritten": self._unwritten.decode()}
        return self._n_lines

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def wants_bar(progress: bool | None, observers: Sequence[Sequence[Observer]]) -> bool:
    """Whether a training shows a bar of its own: as `progress` says, or (None) where somebody looks on, who has given none."""
    if progress is not None:
        return progress
    return is_watched() and not any(isinstance(one, Progress) for several in observers for one in several)


class Progress:
    """The bar. It goes when all steps are done, so that what is told of the run's end stands below it."""

    def __init__(self, label: str, n_steps: int):
        self._label, self._n_steps, self._done = label, n_steps, 0
        self._bar: ProgressBar | None = None
        self._note, self._closed = "", False

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
        if self._done >= self._n_steps:
            self.close()

    def state(self) -> int:
        return self._done

    def close(self) -> None:
        if self._bar is not None and not self._closed:
            self._closed = True
            self._bar.__exit__(None, None, None)


class WandbLog:
    """Starts the process that mirrors a log to W&B, and ends it. Rows reach W&B through the `JsonLog` of the same `log` alone.

    Nothing here waits but `close`, and nothing raises: whatever W&B does, the run goes on and the log is whole. Trouble is told
    on stderr, once.
    """

    def __init__(self, config: WandbConfig, name: str, params: dict[str, Any], *, log: Path):
        config = as_environment_says(config)
        directory = given(config.directory)
        try:
            if config.mode != "disabled":
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise_if_of_disk(error, f"making {config.directory}")
            raise ConfigError(f"wandb.directory '{config.directory}' cannot be made: {error}") from None
        self._folder, self._timeout, self._told = MirrorFolder(log), config.timeout, ""
        self._run = MirroredRun(
            id=secrets.token_hex(4),
            name=name,
            params=params,
            mode=config.mode,
            project=config.project,
            entity=config.entity,
            directory=str(directory),
            timeout=config.timeout,
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, state: str | None) -> None:
        """`state` is the id of the W&B run to go on with. Where the run is to be found is printed: only now is it known."""
        self._run = replace(self._run, id=state or self._run.id)
        if self._run.mode != "disabled":
            self._start()
            print(f"{self._run.name}: W&B run at {self._run.where}", flush=True)

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
