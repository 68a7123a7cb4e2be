"""Reading batches: the same rows by every way to a chunk, in memory that is counted, and no thread left behind."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from concurrent.futures.thread import _WorkItem
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
import zarr

from sae.errors import StoreError
from sae.storage import activations, prefetch
from sae.storage.activations import ActivationStore
from sae.storage.buffers import Buffers
from sae.storage.checked import CheckedChunks
from sae.storage.native_gather import _gather_float16_by_bits, gather
from sae.storage.order import Block, Order
from sae.storage.packed import PackedChunks
from tests.support.activations import write_store

N_ROWS, D_MLP, CHUNK = 300, 4, 16


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(activations, "CHUNKS_MIXED", 3)


def values_of(dtype):
    """Any numbers, in the type that a store has on disk."""
    values = torch.randn(N_ROWS, D_MLP, generator=torch.Generator().manual_seed(0))
    cast = values.to(getattr(torch, dtype))
    return (cast.view(torch.uint16) if dtype == "bfloat16" else cast).numpy(), cast.float()


def store_of(path, dtype="float16", codec="zstd"):
    on_disk, values = values_of(dtype)
    origin = np.stack([np.arange(N_ROWS), np.arange(N_ROWS) % 10], axis=1).astype(np.uint32)
    return write_store(path, on_disk, origin, chunk_rows=CHUNK, chunks_per_shard=4, codec=codec, dtype=dtype), values


def threads_reading():
    return [thread for thread in threading.enumerate() if thread.name.startswith("sae-read")]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("codec", ["none", "zstd", "lz4"])
def test_a_batch_holds_the_very_numbers_that_were_stored(tmp_path, dtype, codec):
    """By their contexts, which number the rows."""
    store, values = store_of(tmp_path / "store", dtype, codec)
    stored = torch.from_numpy(store[:].astype(np.float32))
    assert torch.equal(stored, values[store.origin()[:, 0].astype(np.int64)])
    (batch,) = islice(store.batches(N_ROWS, seed=1), 1)
    assert batch.dtype == torch.float32
    assert sorted(map(tuple, batch.tolist())) == sorted(map(tuple, stored.tolist()))


@pytest.mark.parametrize("codec", ["none", "zstd", "lz4"])
def test_what_is_mapped_is_what_zarr_reads(tmp_path, codec, monkeypatch):
    store, _ = store_of(tmp_path / "store", codec=codec)
    mapped = [store[5:290:3], store.origin(), *islice(store.batches(70, seed=2), 9)]
    group = zarr.open_group(store.path / "activations.zarr", mode="r")

    def by_zarr_alone(chunks, chunk, buffers=None):
        array = group["activations" if chunks is store._rows else "origin"]
        return np.ascontiguousarray(array[chunk * CHUNK : (chunk + 1) * CHUNK])

    monkeypatch.setattr(CheckedChunks, "__call__", by_zarr_alone)
    by_zarr = [store[5:290:3], store.origin(), *islice(store.batches(70, seed=2), 9)]
    for a, b in zip(mapped, by_zarr, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("shift", [0, 1])
def test_every_float16_becomes_the_float32_that_numpy_says(shift):
    """Written to a multiple of 32 bytes, past the caches, and beside one, through them."""
    bits = np.arange(2**16, dtype=np.uint16).reshape(64, 1024)
    chunks, first_rows = [bits[:40], bits[40:]], np.array([0, 40, 64])
    with np.errstate(invalid="ignore"):
        expected = bits.view(np.float16).astype(np.float32)
    by_bits, memory = np.empty((64, 1024), np.float32), np.empty(2**16 + 16, np.float32)
    start = -memory.ctypes.data % 32 // 4 + shift
    by_instruction = memory[start : start + 2**16].reshape(64, 1024)
    rows = np.random.default_rng(0).permutation(64)
    gather(chunks, first_rows, rows, "float16", by_instruction)
    np.testing.assert_array_equal(by_instruction, expected[rows])
    _gather_float16_by_bits((bits.ctypes.data + rows * 2048).astype(np.uint64), by_bits, by_bits.view(np.uint32))
    np.testing.assert_array_equal(by_bits, expected[rows])


@pytest.mark.parametrize(("n_rows", "chunk_rows", "mixed"), [(300, 16, 3), (301, 16, 3), (48, 16, 3), (17, 16, 2), (10, 16, 4)])
def test_parts_are_the_blocks_of_all_epochs_end_to_end(n_rows, chunk_rows, mixed):
    """Against a list of all rows of some epochs, made block by block."""
    order, n_blocks = Order(n_rows, chunk_rows, mixed, seed=4), -(-n_rows // (chunk_rows * mixed))
    blocks = [(epoch, number) for epoch in range(9) for number in range(n_blocks)]
    places = [(block, i) for block in blocks for i in range(order.size(Block(*block)))]
    for first in range(0, 3 * n_rows, 7):
        for n in (1, 50, n_rows):
            found = [(tuple(part.block), i) for part in order.parts(first, n) for i in range(part.start, part.stop)]
            assert found == places[first : first + n]


@pytest.mark.parametrize(("size", "run_rows"), [(96, 1), (96, 4), (97, 4), (3, 4), (33, 32)])
def test_a_block_is_permuted_by_runs(size, run_rows):
    """Every row once, each run whole and in order, wherever it comes; the order of the runs is another in each epoch."""
    order = Order(1000, 16, 3, seed=4, run_rows=run_rows)
    rows = [order.rows(Block(epoch, 2), size) for epoch in range(3)]
    for found in rows:
        np.testing.assert_array_equal(np.sort(found), np.arange(size))
        at = np.argsort(found)
        for start in range(0, size, run_rows):
            run = at[start : start + run_rows]
            np.testing.assert_array_equal(run, run[0] + np.arange(len(run)))
    if size // run_rows > 20:
        assert all(not np.array_equal(one, other) for one, other in pairwise(rows))
        assert np.count_nonzero(np.diff(np.argsort(rows[0])[::run_rows]) == run_rows) <= 5, "runs do not follow each other"


def test_a_state_goes_on_with_the_next_batch(tmp_path):
    store, _ = store_of(tmp_path / "store")
    batches = store.batches(70, seed=3)
    for _ in range(11):
        next(batches)
    state = batches.state()
    assert state == {"n_rows": 70, "seed": 3, "start": 11}
    assert torch.equal(next(store.batches(**state)), next(batches))


def test_a_store_is_told_by_all_of_its_rows(tmp_path):
    """However it is written; one number of the last row makes it another."""
    on_disk, _ = values_of("float16")
    origin = np.zeros((N_ROWS, 2), np.uint32)
    changed = on_disk.copy()
    changed[-1, -1] += 1
    ways = ((on_disk, "zstd"), (on_disk, "none"), (changed, "zstd"))
    stores = [
        write_store(tmp_path / str(i), values, origin, chunk_rows=CHUNK, chunks_per_shard=4, codec=codec, dtype="float16")
        for i, (values, codec) in enumerate(ways)
    ]
    one, same, other = (store.identity for store in stores)
    assert one == same != other


def test_batches_that_are_held_are_not_written_over(tmp_path):
    """Though memory is used again for those that are not."""
    store, _ = store_of(tmp_path / "store")
    batches = store.batches(50, seed=3)
    held = [next(batches)[10:20].T for _ in range(3)]
    copies = [one.clone() for one in held]
    seen = {next(batches).data_ptr() for _ in range(60)}
    assert len(seen) < 10, "memory is used again"
    assert all(map(torch.equal, held, copies))


def test_buffers_come_back_when_no_view_is_left():
    buffers = Buffers(64, most=1)
    first = buffers.take()
    view = torch.from_numpy(first.view(np.float32).reshape(4, 4)[1:])
    place = first.ctypes.data
    del first
    assert buffers.take().ctypes.data != place
    del view
    assert buffers.take().ctypes.data == place


class Counted:
    """How many chunks and batches there are at once."""

    def __init__(self, monkeypatch):
        self.lock, self.now, self.most = threading.Lock(), Counter(), Counter()
        load, take = PackedChunks.__call__, Buffers.take

        def loaded(chunks, file, shard, place, buffers):
            return self.counted("chunks", load(chunks, file, shard, place, Buffers(chunks._n_bytes, most=0)))

        monkeypatch.setattr(PackedChunks, "__call__", loaded)
        monkeypatch.setattr(prefetch, "Buffers", CountedBuffers.of(self, take))

    def counted(self, what, array):
        with self.lock:
            self.now[what] += 1
            self.most[what] = max(self.most[what], self.now[what])
        weakref.finalize(owner(array), self.gone, what)
        return array

    def gone(self, what):
        with self.lock:
            self.now[what] -= 1


def owner(array):
    """The object at the end of a chain of views."""
    while getattr(array, "base", None) is not None:
        array = array.base
    return array


class CountedBuffers:
    @staticmethod
    def of(counted, take):
        class Counting(Buffers):
            def take(self):
                return counted.counted("batches", take(self))

        return Counting


@pytest.mark.parametrize("n_rows", [5, 130])
@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_in_memory_at_once_is_bounded(tmp_path, monkeypatch, threads, n_rows):
    """By the formula in the docstring of `batches`: 2 CHUNKS_MIXED chunks, threads + 2 batches besides the caller's one; also
    where threads are slow to take the next task, holding the last one."""
    run = _WorkItem.run
    monkeypatch.setattr(_WorkItem, "run", lambda item: (run(item), time.sleep(0.002)))
    store, _ = store_of(tmp_path / "store")
    counted = Counted(monkeypatch)
    assert sum(len(batch) for batch in islice(store.batches(n_rows, threads=threads), 40)) == 40 * n_rows
    assert counted.most["chunks"] <= 2 * activations.CHUNKS_MIXED
    assert counted.most["batches"] <= threads + 2 + 1
    gc.collect()
    assert not +counted.now


@pytest.mark.parametrize("how", ["closed", "forgotten", "ended early"])
def test_an_iterator_that_is_left_leaves_no_thread(tmp_path, how):
    store, _ = store_of(tmp_path / "store")
    batches = store.batches(50, threads=3)
    next(batches)
    assert threads_reading()
    if how == "closed":
        batches.close()
        with pytest.raises(StopIteration):
            next(batches)
    elif how == "forgotten":
        del batches
    else:
        assert len(list(islice(batches, 2))) == 2
        del batches
    assert not threads_reading()


def test_a_script_that_ends_in_mid_epoch_says_nothing(tmp_path):
    """Its iterators are forgotten when Python has already taken the modules apart."""
    store_of(tmp_path / "store")
    script = f"from sae import ActivationStore; b = ActivationStore.open({str(tmp_path / 'store')!r}).batches(50); next(b)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_in_a_thread_comes_with_its_batch_and_ends_all(tmp_path):
    """Of eight shards the fifth is damaged: the batches before are there, and then the error, in the consumer."""
    store, _ = store_of(tmp_path / "store", codec="none")
    whole = list(islice(store.batches(50, seed=5), 6))
    shard = store.path / "activations.zarr/activations/c/3/0"
    data = bytearray(shard.read_bytes())
    data[7] ^= 1
    shard.write_bytes(data)
    batches, got = ActivationStore.open(store.path).batches(50, seed=5), []
    with pytest.raises(StoreError, match=r"activations/c/3/0 is damaged \(chunk 0"):
        got.extend(batches)
    assert 0 < len(got) < 6
    assert all(map(torch.equal, got, whole))
    assert not threads_reading()
    with pytest.raises(StopIteration):
        next(batches)


def test_batches_are_page_locked_where_a_gpu_is_used(tmp_path, monkeypatch):
    """As far as that shows without one: torch is asked for such memory."""
    asked, empty = [], torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, dtype, pin_memory: asked.append(pin_memory) or empty(*size, dtype=dtype))
    store, _ = store_of(tmp_path / "store")
    plain, pinned = (next(store.batches(50, pin=pin)) for pin in (None, True))
    assert torch.equal(plain, pinned)
    assert asked
    assert all(asked)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    n_asked = len(asked)
    next(store.batches(50))
    assert len(asked) > n_asked
