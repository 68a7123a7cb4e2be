"""A fork server: lives of a process that has everything imported, each begun in milliseconds and ended as its test wants."""

import gc
import hashlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from sae.errors import SaeError
from sae.storage.layout import Layout
from sae.storage.pieces import DamagedPieceError, Piece, records_of
from tests.support.toy_harvest import bytes_of

FAILED = 99
"""Exit code of a life that ended with an error that is no `SaeError`."""


def life(work: Callable[[], object], *, kill_after: float | None = None, told: Path | None = None) -> int:
    """A process that does `work`; its exit code, or minus the signal that ended it. `told` gets the text of an error."""
    child = begin(work, told)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return ended(child)


def begin(work: Callable[[], object], told: Path | None = None) -> int:
    child = os.fork()
    if child:
        return child
    gc.disable()  # a collection would touch, and so copy, all the memory that is shared with the parent
    code = FAILED
    try:
        work()
        code = 0
    except BaseException as error:
        code = error.exit_code if isinstance(error, SaeError) else FAILED
        if told is not None:
            told.write_text(repr(error))
    finally:
        os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Lost(AssertionError):  # noqa: N818 - what a harness found
    """Work that was done is gone, or what stands is not whole, or the store is not the undisturbed one."""


class Watch:
    """Looks at a store between the lives of its writers: what stood goes on standing, and is whole."""

    def __init__(self, target: Path, layout: Layout, n_tasks: int, undisturbed: dict[str, bytes]):
        self.target, self._layout, self._n_tasks, self._undisturbed = target, layout, n_tasks, undisturbed
        self.partial = target.with_name(target.name + ".partial")
        self._stood: set[str] = set()

    def look(self) -> None:
        """Raises `Lost`."""
        if self.target.exists():
            if bytes_of(self.target) != self._undisturbed:
                raise Lost("what stands in the store's place is not the undisturbed store")
            return
        stands = {path.stem for path in self._stands("shards")} | {f"task {task}" for task in self._tasks()}
        if not self._stood <= stands:
            raise Lost(f"{sorted(self._stood - stands)} were done and are gone")
        self._stood = stands

    def _stands(self, folder: str) -> list[Path]:
        return [path for path in (self.partial / folder).glob("*") if path.suffix != ".partial" and path.name != "spare"]

    def _tasks(self) -> set[int]:
        tasks: set[int] = set()
        for folder, n in (("pieces", 1), ("joined", 2)):
            for path in self._stands(folder):
                self._read(path)
                tasks |= set(range(int(path.name) * n, min((int(path.name) + 1) * n, self._n_tasks)))
        return tasks

    def _read(self, path: Path) -> None:
        try:
            plan = hashlib.sha256((self.partial / "plan.json").read_bytes()).hexdigest()
            piece = Piece(path, self._layout, plan)
            for shard in range(self._layout.n_shards):
                records_of([piece], shard)
        except DamagedPieceError as error:
            raise Lost(f"half of a piece stands: {error}") from None


def harass(work: Callable[[], object], watch: Watch, chance: random.Random, seconds: float, *, lives: int = 40) -> int:
    """Do `work` to its end, killed at most `lives` times, each at a random instant of the first half of `seconds`; how many kills
    there were.

    Raises `Lost`."""
    n_kills = 0
    told = watch.target.with_name("error.txt")
    while True:
        code = life(work, kill_after=chance.uniform(0, seconds / 2) if n_kills < lives else None, told=told)
        watch.look()
        if code == 0:
            if not watch.target.exists() or watch.partial.exists():
                raise Lost("it ended well without a store, or left its work")
            return n_kills
        if code != -signal.SIGKILL:
            raise Lost(f"it ended with {code}: {told.read_text()}")
        n_kills += 1
