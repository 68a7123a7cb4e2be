"""A store whose writers are killed at random instants, one after the other, or race: it ends as if nothing had been.

`make faults` runs the long versions and prints what they counted."""

import contextlib
import os
import random
import shutil
import time
from collections import Counter

import pytest

from sae import artefact
from sae.errors import LockedError
from sae.storage.share import Share
from tests.faults.errors import Disk, install
from tests.faults.lives import Lost, begin, ended, harass, life
from tests.support.toy_harvest import bytes_of
from tests.support.toy_source import ToySource

pytestmark = pytest.mark.alone

LONG = pytest.mark.slow


@pytest.fixture
def unsynced(monkeypatch):
    """Syncing guards against power cuts, not against kills, and is most of the time here."""
    monkeypatch.setattr(artefact, "sync", lambda path: None)


@pytest.mark.parametrize(("seed", "n_wanted"), [(0, 8), *(pytest.param(seed, 125, marks=LONG) for seed in range(1, 5))])
def test_killed_at_random_instants(subject, unsynced, seed, n_wanted):
    started = time.monotonic()
    assert life(subject.harvest) == 0
    seconds = time.monotonic() - started
    shutil.rmtree(subject.target)
    chance, n_kills, n_rounds = random.Random(seed), 0, 0
    while n_kills < n_wanted:
        n_kills += harass(subject.harvest, subject.watch(), chance, seconds, lives=min(40, n_wanted - n_kills))
        n_rounds += 1
        assert bytes_of(subject.target) == subject.undisturbed
        shutil.rmtree(subject.target)
    print(f"\n{n_kills} kills in {n_rounds} stores, 0 shards lost, every store the undisturbed one")


def operations(subject) -> int:
    """Writes, syncs and renames of an undisturbed harvest."""
    counted = subject.folder / "counted"

    def count():
        disk = Disk(None)
        install(disk)
        subject.harvest()
        counted.write_text(str(disk.n))

    assert life(count) == 0
    shutil.rmtree(subject.target)
    return int(counted.read_text())


def killed_at_every(subject, step: int) -> int:
    """End the writer at every `step`-th write, sync and rename, then let another finish; how many there were. Raises `Lost`."""
    instants = range(0, operations(subject), step)
    for at in instants:
        watch = subject.watch()

        def work(at=at):
            install(Disk(at, 0))
            subject.harvest()

        assert life(work) == 137
        watch.look()
        assert life(subject.harvest, told=subject.folder / "error.txt") == 0
        watch.look()
        shutil.rmtree(subject.target)
    return len(instants)


@pytest.mark.parametrize("step", [61, pytest.param(1, marks=LONG)])
def test_killed_at_every_write_sync_and_rename(subject, step):
    print(f"\nkilled at {killed_at_every(subject, step)} writes, syncs and renames, 0 lost")


@pytest.mark.parametrize("ways", ["pieces"])
def test_the_harness_catches_a_writer_that_does_not_rename(subject, monkeypatch):
    @contextlib.contextmanager
    def in_place(path, *, synced=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path

    monkeypatch.setattr(artefact, "replacing", in_place)
    with pytest.raises(Lost, match="half of a piece stands"):
        killed_at_every(subject, 1)


class Waiting(ToySource):
    """Says that it is at work, and waits until it may go on."""

    def __init__(self, says: int, go: int):
        super().__init__()
        self._says, self._go = says, go

    def activations(self, tokens):
        if self._says:
            os.write(self._says, b"W")
            os.read(self._go, 1)
            self._says = 0
        return super().activations(tokens)


def race(subject, n: int, shares: bool) -> Counter:
    """`n` writers begin at once; none goes on until each has said whether it writes (W) or is locked out (L)."""
    (start, started), (go, going), (heard, says) = os.pipe(), os.pipe(), os.pipe()

    def work(first):
        os.close(started)
        os.close(going)
        os.read(start, 1)
        try:
            subject.harvest(source=Waiting(says, go), share=Share(first, n) if shares else None)
        except LockedError:
            os.write(says, b"L")
            raise

    children = [begin(lambda first=first: work(first), subject.folder / f"error{first}.txt") for first in range(n)]
    for end in (start, started, go, says):
        os.close(end)
    told = b""
    while len(told) < n and (more := os.read(heard, 1)):
        told += more
    os.close(going)
    os.close(heard)
    codes = Counter(ended(child) for child in children)
    assert codes == Counter({0: told.count(b"W"), LockedError.exit_code: told.count(b"L")}) - Counter(), codes
    return Counter(told.decode())


@pytest.mark.parametrize("ways", ["pieces"])
@pytest.mark.parametrize("n_rounds", [8, pytest.param(200, marks=LONG)])
def test_of_racing_writers_one_wins(subject, unsynced, n_rounds):
    chance = random.Random(0)
    for _ in range(n_rounds):
        n = chance.randint(2, 4)
        assert race(subject, n, shares=False) == Counter(W=1, L=n - 1)
        subject.watch().look()
        shutil.rmtree(subject.target)
    print(f"\n{n_rounds} races of 2 to 4 writers, one winner each")


@pytest.mark.parametrize("ways", ["pieces"])
@pytest.mark.parametrize("n_rounds", [4, pytest.param(100, marks=LONG)])
def test_shares_that_begin_at_once_make_one_store(subject, unsynced, n_rounds):
    chance = random.Random(0)
    for _ in range(n_rounds):
        n = chance.randint(2, 4)
        assert race(subject, n, shares=True) == Counter(W=n)
        assert life(subject.harvest, told=subject.folder / "error.txt") == 0
        subject.watch().look()
        shutil.rmtree(subject.target)
    print(f"\n{n_rounds} jobs of 2 to 4 shares that begin at once, one store each")
