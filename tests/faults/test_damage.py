"""A committed store in which something changed: opening it, reading all of it, or verifying it says so."""

import errno
import random
import resource
import shutil
from collections import Counter

import numpy as np
import pytest

from sae.errors import DiskError, StoreError
from sae.storage.activations import ActivationStore
from sae.storage.checked import CheckedChunks
from sae.storage.upkeep import verify
from tests.faults.errors import Disk, install
from tests.faults.lives import life
from tests.faults.test_kills import operations

pytestmark = pytest.mark.alone

LONG = pytest.mark.slow
ZARR = "activations.zarr"


@pytest.fixture(params=["none", "zstd", pytest.param("lz4", marks=LONG)])
def codec(request):
    return request.param


@pytest.fixture
def whole(subject, codec):
    assert life(lambda: subject.harvest(codec=codec)) == 0
    return subject.target


@pytest.fixture
def rows(whole):
    store = ActivationStore.open(whole)
    return store[:].tobytes() + store.origin().tobytes()


def noticed(path, rows) -> str:
    """By what a change is noticed: `open`, `read`, `verify`; or `SILENT`."""
    try:
        store = ActivationStore.open(path)
    except StoreError:
        return "open"
    try:
        read = store[:].tobytes() + store.origin().tobytes()
    except StoreError:
        return "read"
    if read != rows:
        return "SILENT"
    return "verify" if verify(path) else "SILENT"


@pytest.mark.parametrize("ways", ["pieces"])
@pytest.mark.parametrize("n", [80, pytest.param(1200, marks=LONG)])
def test_flipped_bits(whole, rows, n):
    chance, by = random.Random(n), Counter()
    files = sorted(file for file in whole.rglob("*") if file.is_file())
    for i in range(n):
        file = files[i % len(files)]
        data = file.read_bytes()
        at, bit = chance.randrange(len(data)), chance.randrange(8)
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        by[noticed(whole, rows)] += 1
        file.write_bytes(data)
    print(f"\n{n} flips over {len(files)} files, noticed by: {dict(by)}")
    assert by["SILENT"] == 0
    assert noticed(whole, rows) == "SILENT", "it is whole again"


def damages(whole):
    """Every way to damage shards, done and undone."""
    for name in ("activations", "origin"):
        shards = sorted((whole / ZARR / name / "c").glob("*/0"))
        for i, shard in enumerate(shards):
            data, other = shard.read_bytes(), shards[i - 1]
            theirs = other.read_bytes()
            for content in (b"", data[:-1], data[: len(data) // 2], data + b"\0", theirs, bytes(len(data))):
                shard.write_bytes(content)
                yield f"{name} {i}, {len(content)} of {len(data)} bytes"
            other.write_bytes(data)
            shard.write_bytes(theirs)
            yield f"{name} {i}, swapped"
            other.write_bytes(theirs)
            shard.unlink()
            yield f"{name} {i}, missing"
            shard.write_bytes(data)


@pytest.mark.parametrize("ways", ["pieces"])
def test_shards_cut_empty_missing_swapped_and_duplicated(whole, rows):
    by, silent = Counter(), []
    for what in damages(whole):
        how = noticed(whole, rows)
        by[how] += 1
        silent += [what] if how in ("SILENT", "verify") else []
    print(f"\n{by.total()} damaged shards, noticed by: {dict(by)}")
    assert not silent
    assert noticed(whole, rows) == "SILENT", "it is whole again"


@pytest.mark.parametrize("ways", ["pieces"])
@pytest.mark.parametrize("codec", ["zstd"])
def test_the_harness_catches_a_reader_without_checksums(whole, rows, monkeypatch):
    monkeypatch.setattr(CheckedChunks, "_is_whole", lambda self, chunk, values: True)
    silent = [what for what in damages(whole) if noticed(whole, rows) == "SILENT"]
    assert sum("swapped" in what for what in silent) == 4, (
        "of either array the two swaps without the last shard, which is shorter"
    )


FAULTS = {
    "EIO once": (errno.EIO, False, DiskError.exit_code),
    "ENOSPC once": (errno.ENOSPC, False, DiskError.exit_code),
    "ENOSPC for good": (errno.ENOSPC, True, DiskError.exit_code),
}


@pytest.mark.parametrize("step", [199, pytest.param(1, marks=LONG)])
def test_an_error_at_every_write_sync_and_rename(subject, step):
    instants, ends = range(0, operations(subject), step), Counter()
    for at in instants:
        for what, (error, stays, code) in FAULTS.items():
            watch = subject.watch()

            def work(at=at, error=error, stays=stays):
                install(Disk(at, error, stays=stays))
                subject.harvest()

            found = life(work, told=subject.folder / "error.txt")
            told = (subject.folder / "error.txt").read_text() if found else ""
            assert found in (0, code), f"{what} at {at}: {found}, {told}"
            ends[f"{what}: {found}"] += 1
            watch.look()
            assert life(subject.harvest, told=subject.folder / "error.txt") == 0
            watch.look()
            shutil.rmtree(subject.target)
    print(f"\nerrors at {len(instants)} operations, exit codes {dict(ends)}, 0 corrupt, all went on")


@pytest.mark.parametrize("n_bytes", [300, 2000])
def test_files_that_may_not_grow(subject, n_bytes):
    """The kernel's own refusal, at any write."""

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
        subject.harvest()

    watch = subject.watch()
    assert life(work, told=subject.folder / "error.txt") == DiskError.exit_code
    watch.look()
    assert life(subject.harvest) == 0
    watch.look()
    assert np.array_equal(verify(subject.target), [])
