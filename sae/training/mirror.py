"""Sends a run's local log to W&B from a process of its own (the only import of wandb).

The log is the truth and the buffer: the run only ever appends to a file, and this process reads that file, at whatever
pace the server allows. Line `n` of the log is W&B's step `n`, so a server that is asked where a run stands says which
lines it has: rows are then sent once, whoever was killed when. An offline run cannot be asked (wandb 0.31 starts another
file, and a killed wandb-core was seen to leave an empty one): its files are made anew from the log's first line.
`python -m sae.training.mirror LOG` is started by `WandbLog`; `sae sync LOG` does the same later, from the command line.
"""

import json
import os
import select
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from sae.errors import ConfigError, UnavailableError, needs
from sae.paths import given
from sae.training.mirror_folder import MirroredRun, MirrorFolder

SECONDS_BETWEEN_READS = 0.5
SECONDS_BETWEEN_ATTEMPTS = (5.0, 15.0, 60.0)
"""After the first failure to reach the server, the second, and all others."""
SECONDS_TO_FINISH = 60.0
"""How long a mirror outlives its run for a server that does not take the rest, which `sae sync` sends then."""
SECONDS_TO_FINISH_SYNC = 600.0


class Ended(NamedTuple):
    """How the run ended."""

    in_order: bool
    """False where it was killed."""


Wait = Callable[[float], Ended | None]
"""Wait for so many seconds, or until the run has ended; `None` where it goes on."""


class Synced(NamedTuple):
    """What `sync` did."""

    n_sent: int
    n_rows: int
    """Complete rows in the log; lines that are none (torn by a crash, or by hand) are not sent and not counted."""
    where: str


class Tail:
    """Complete lines of a growing file. Where `JsonLog` of a resumed run replaces it, it is opened again, at the same line."""

    def __init__(self, path: Path, n_read: int):
        self.path, self.n_read = path, n_read
        self._file: BinaryIO | None = None

    def rows(self) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """(line number, row) for what was appended since the last call; `None` for a line that is no JSON object."""
        if self._file is None or self._replaced():
            self._open()
        while self._file is not None:
            start = self._file.tell()
            line = self._file.readline()
            if not line.endswith(b"\n"):  # nothing, or a row that is being written
                self._file.seek(start)
                return
            self.n_read += 1
            yield self.n_read - 1, _parse(line)

    def _replaced(self) -> bool:
        assert self._file is not None
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def _open(self) -> None:
        self.close()
        try:
            file = open(self.path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return
        skipped = 0
        while skipped < self.n_read:
            line = file.readline()
            if not line.endswith(b"\n"):  # rows that a resumed run has yet to write again
                file.close()
                return
            skipped += 1
        self._file = file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def main(log: Path) -> None:
    """The mirror of one run, until the run has ended and its log is sent, or cannot be sent for now."""
    os.nice(10)  # the import of wandb takes a second of a core that the run wants
    folder = MirrorFolder(log)
    run = folder.read_run()
    try:
        with folder.lock(wait=True):
            _follow(folder, run, _wait_for_parent(os.getppid()), live=True)
    except Exception as error:
        folder.write_trouble(f"{_reason(error)}; nothing is lost, send the rest with: sae sync {log}")
        raise


def _wandb() -> Any:
    """The package, imported where it is first used: a second that nobody shall pay who sends nothing."""
    with needs("pipeline"):
        import wandb
    return wandb


def _process(log: Path) -> NoReturn:
    """Ends at once: with a server that stalls, Python's own exit was seen to wait 20 s for wandb's threads."""
    code = 0
    try:
        main(log)
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)


def sync(log: Path, *, offline: bool = False) -> Synced:
    """Send what W&B's server has not yet got of a log; with `offline`, make W&B's local files of it anew.

    Raises `StoreError` where the log has no record of its W&B run, `LockedError` while its run's mirror is at work,
    `UnavailableError` where the server is not reached, `ConfigError` where it refuses the login.
    """
    log = given(log)
    folder = MirrorFolder(log)
    run = replace(folder.read_run(), mode="offline" if offline else "online")
    with closing(Tail(log, 0)) as tail:
        n_rows = sum(row is not None for _, row in tail.rows())
    wandb = _wandb()

    with folder.lock(wait=False):
        try:
            n_sent = _follow(folder, run, lambda seconds: Ended(in_order=True), live=False)
        except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
            raise ConfigError(f"W&B refuses: {error}; log in (wandb login) and run again") from None
        except (wandb.errors.Error, OSError) as error:
            raise UnavailableError(f"W&B cannot be reached ({_reason(error)}); {log} is whole, run again later") from None
        folder.write_trouble("")
    return Synced(n_sent, n_rows, run.where)


def _follow(folder: MirrorFolder, run: MirroredRun, wait: Wait, *, live: bool) -> int:
    """Gives the number of rows sent. `live`: the run is this process's parent."""
    older = list(_folders(run))
    session = _connect(folder, run, wait, live)
    first = session.starting_step  # the server's, which knows what it has; 0 offline
    session.define_metric("*", step_metric="step")
    n_sent = 0
    with closing(Tail(folder.log, first)) as tail:
        while True:
            if _superseded(folder, run):
                ended = None
                break
            ended = wait(0)  # asked before reading: what was written before the end is then read
            for number, row in tail.rows():
                if row is not None:
                    session.log(_to_wandb(row), step=number, commit=True)
                    n_sent += 1
            if ended is not None:
                break
            wait(SECONDS_BETWEEN_READS)
    _finish(session, live, in_order=ended is None or ended.in_order)
    if run.mode == "offline":
        _remove(older)  # now, and not before: never fewer rows on the disk than there were
    return n_sent


def _connect(folder: MirrorFolder, run: MirroredRun, wait: Wait, live: bool) -> Any:
    """A W&B run. Where the server does not answer, the log waits: tried again until the run has ended, and once more then."""
    wandb = _wandb()

    pauses = iter(SECONDS_BETWEEN_ATTEMPTS)
    pause, ended = SECONDS_BETWEEN_ATTEMPTS[-1], wait(0)
    while True:
        before = set(_folders(run))
        try:
            session = _start(run, live)
        except wandb.errors.CommError as error:
            wandb.teardown()
            _remove(set(_folders(run)) - before)  # an empty run, which `wandb sync` would send
            if ended is not None or isinstance(error, wandb.errors.AuthenticationError):
                raise
            folder.write_trouble(f"{_reason(error)}; trying again while the run goes on, then: sae sync {folder.log}")
            ended = wait(pause := next(pauses, pause))
        else:
            folder.write_trouble("")
            return session


def _start(run: MirroredRun, live: bool) -> Any:
    wandb = _wandb()

    settings = wandb.Settings(
        init_timeout=run.timeout,
        finish_timeout=_seconds_to_finish(live),
        finish_timeout_raises=True,
        silent=True,
        console="off",  # what this process prints is not the run's
        disable_git=True,
        x_disable_stats=not live,
        x_stats_pid=os.getppid(),  # the run's use of memory and processor, not this process's
    )
    return wandb.init(
        mode=run.mode,
        id=run.id,
        resume="allow",
        name=run.name,
        project=run.project,
        entity=run.entity,
        config=run.params,
        dir=run.directory,
        settings=settings,
    )


def _finish(session: Any, live: bool, in_order: bool) -> None:
    # Where wandb does not let go, not even at this process's exit: no mirror stays for ever.
    last_resort = threading.Timer(_seconds_to_finish(live) + 15, os._exit, (1,))
    last_resort.daemon = True
    if live:
        last_resort.start()
    session.finish(exit_code=0 if in_order else 1)


def _seconds_to_finish(live: bool) -> float:
    return SECONDS_TO_FINISH if live else SECONDS_TO_FINISH_SYNC


def _folders(run: MirroredRun) -> Iterator[Path]:
    kind = "offline-run" if run.mode == "offline" else "run"
    return Path(run.directory, "wandb").glob(f"{kind}-*-{run.id}")


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def _superseded(folder: MirrorFolder, run: MirroredRun) -> bool:
    """Whether another run has taken this log, as one that is started afresh does."""
    return folder.read_run().id != run.id


def _to_wandb(row: dict[str, Any]) -> dict[str, Any]:
    """Histograms as W&B's; an event's values under its name, as they share none with the records."""
    wandb = _wandb()

    event = row.get("event")
    sent: dict[str, Any] = {}
    for name, value in row.items():
        key = f"{event}/{name}" if event is not None and name != "step" else name
        if name == "event":
            continue
        is_histogram = isinstance(value, list) and [type(part) for part in value] == [list, list]
        if is_histogram and len(value[1]) == len(value[0]) + 1 <= wandb.Histogram.MAX_LENGTH + 1:
            value = wandb.Histogram(np_histogram=tuple(value))
        sent[key] = value
    if event is not None and len(sent) == 1:
        sent[event] = 1  # an event that says nothing but that it happened
    return sent


def _wait_for_parent(parent: int) -> Wait:
    """The run holds the other end of stdin: it says "end" and closes it, or dies and so closes it. Its pid is looked at as
    well, since processes that it forks hold that end too."""
    said: list[bytes] = []
    closed = False

    def wait(seconds: float) -> Ended | None:
        nonlocal closed
        until = time.monotonic() + seconds
        while not closed:
            left = until - time.monotonic()
            if select.select([0], [], [], max(0.0, min(left, 1.0)))[0]:
                said.append(part := os.read(0, 16))
                closed = not part
            elif os.getppid() != parent:
                closed = True
            elif left <= 0:
                return None
        return Ended(in_order=b"".join(said) == b"end")

    return wait


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _reason(error: Exception) -> str:
    """The first line: wandb's messages go on with the requests that failed."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


if __name__ == "__main__":
    _process(Path(sys.argv[1]))
