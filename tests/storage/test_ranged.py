"""Stores that are read where they lie in a bucket, by ranges: the rows of the disk, no shard on this machine's, each byte
compared, and what it costs in requests and bytes."""

import os
import pickle
import shutil
import threading
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipelines.common import Stage
from pipelines.train import train_stage
from sae.errors import StoreError, UnavailableError
from sae.storage import activations
from sae.storage.activations import ActivationStore
from sae.storage.bucket import Bucket
from sae.storage.ranged import RangedFile
from sae.storage.transfer import pull, push
from sae.training.config import TrainConfig
from sae.training.data import Feed
from sae.training.fit import train_many
from tests.support.activations import small_store, write_store
from tests.support.s3 import flipped
from tests.support.toy_harvest import bytes_of

SHARDS = [f"activations.zarr/activations/c/{i}/0" for i in range(2)]
CHUNK = 16 * 4 * 2 + 4
"""Bytes in its shard's file of one of `whole`, which is not compressed."""
INDEX = 4 * 16 + 4
FREE = "sae.storage.ranged.shutil.disk_usage"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that 7 chunks are more than one block."""
    monkeypatch.setattr(activations, "CHUNKS_MIXED", 3)


def shards_below(path):
    return [name for name in bytes_of(path) if "/c/" in name and "mean" not in name]


def requests(door):
    return [line for line in door.asked if "activations/c/" in line]


@pytest.mark.parametrize("codec", ["none", "zstd", "lz4"])
def test_read_by_ranges_is_as_from_the_disk_and_keeps_nothing(door, tmp_path, codec):
    whole = small_store(tmp_path / "whole", codec=codec)
    push(whole, door.url)
    store, local = ActivationStore.open(door.url, cache=False), ActivationStore.open(whole)
    np.testing.assert_array_equal(store[5:90:3], local[5:90:3])
    np.testing.assert_array_equal(store.origin(), local.origin())
    batches = store.batches(32, seed=3)
    for ours, theirs in zip(islice(batches, 9), local.batches(32, seed=3), strict=False):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert torch.equal(next(store.batches(**batches.state())), next(local.batches(32, seed=3, start=9)))
    assert store.identity == local.identity
    assert shards_below(store.path) == []


def test_each_epoch_fetches_each_chunk_once_and_an_index_is_fetched_once(door, whole):
    """Counted at the server, in requests and in bytes. (Threads that come to a shard at the same time each fetch its index.)"""
    push(whole, door.url)
    store, n_chunks = ActivationStore.open(door.url, cache=False), 7
    for n_indices, n_epochs, read in ((2, 1, lambda: store[:]), (0, 2, lambda: list(store.dataset(20, epochs=2)))):
        door.asked.clear()
        door.n_bytes = 0
        read()
        assert len(requests(door)) == n_epochs * n_chunks + n_indices
        assert door.n_bytes == n_epochs * n_chunks * CHUNK + n_indices * INDEX


def test_ranges_are_under_way_side_by_side(door, whole, monkeypatch):
    """As many as the block has chunks: each waits for the others."""
    push(whole, door.url)
    store = ActivationStore.open(door.url, cache=False)
    store[:]  # whose indices are here then
    meeting, met, part = threading.Barrier(3), threading.Event(), Bucket.part

    def together(self, *where):
        if not met.is_set():
            meeting.wait(30)
            met.set()
        return part(self, *where)

    monkeypatch.setattr(Bucket, "part", together)
    assert len(next(store.batches(40))) == 40
    assert met.is_set()


def test_what_is_damaged_there_is_never_read(door, whole):
    push(whole, door.url)
    files, local = door.stored(door.url), ActivationStore.open(whole)
    first, second = SHARDS
    turned, place = bytearray(files[first]), bytearray(files[first])
    turned[CHUNK + 3] ^= 1
    place[-INDEX] ^= 1
    cases = [
        ({first: bytes(turned)}, r"chunk 1: its checksum is not the one committed"),
        ({first: files[second], second: files[first]}, r"chunk 0: its checksum is not the one committed"),
        ({first: flipped(files[first])}, r"chunk 0: the checksum of the shard's index differs"),
        ({first: bytes(place)}, r"chunk 0: the checksum of the shard's index differs"),
        ({first: files[first][:100]}, r"chunk 0: the checksum of the shard's index differs"),
    ]
    for damage, told in cases:
        for name, content in damage.items():
            Bucket(door.url).send(name, content)
        store = ActivationStore.open(door.url, cache=False)
        with pytest.raises(StoreError, match=rf"^{door.url}/{first} is damaged \({told}\); push the store again"):
            store[0:64]
        with pytest.raises(StoreError, match=f"^{door.url}/activations.zarr/activations/c/"):
            list(store.dataset(20, epochs=1))
        if second not in damage:
            np.testing.assert_array_equal(store[64:], local[64:])
        for name in damage:
            Bucket(door.url).send(name, files[name])
    np.testing.assert_array_equal(ActivationStore.open(door.url, cache=False)[:], local[:])


def test_a_shard_that_is_missing_or_cut_is_told_on_opening_or_on_reading(door, whole):
    push(whole, door.url)
    for content in (None, b""):
        Bucket(door.url).send(SHARDS[1], content) if content is not None else Bucket(door.url).remove(SHARDS[1])
        with pytest.raises(StoreError, match=f"^{door.url}/{SHARDS[1]} is missing or empty; push the store again"):
            ActivationStore.open(door.url, cache=False)
    Bucket(door.url).send(SHARDS[1], b"short")
    store = ActivationStore.open(door.url, cache=False)
    with pytest.raises(StoreError, match=rf"{SHARDS[1]} is damaged \(chunk 0: it is cut off\)"):
        store[70:71]
    Bucket(door.url).remove(SHARDS[0])
    with pytest.raises(StoreError, match=rf"{SHARDS[0]} is damaged \(chunk 0: .*NoSuchKey"):
        store[0:1]


def test_faults_on_the_way_are_outlived_and_turned_bits_found(door, tmp_path):
    whole = small_store(tmp_path / "whole", codec="lz4")
    push(whole, door.url)
    store, rows = ActivationStore.open(door.url, cache=False), ActivationStore.open(whole)[:]
    door.faults.extend(("activations/c/", fault) for kind in ("500", "503", "reset", "cut") for fault in (kind, "", kind, kind))
    for _ in range(2):
        np.testing.assert_array_equal(store[:], rows)
    assert not door.faults
    door.faults.extend([("activations/c/", ""), ("activations/c/", "flip")])
    with pytest.raises(StoreError, match=rf"{SHARDS[0]} is damaged \(chunk 1: its checksum differs"):
        store[:]
    np.testing.assert_array_equal(store[:], rows)
    door.faults.extend([("activations/c/", "500")] * 100)
    with pytest.raises(UnavailableError, match=f"{door.url} cannot be reached"):
        next(store.batches(32))


def test_it_is_kept_where_the_disk_has_room(door, tmp_path, monkeypatch, capsys):
    """And a tenth more; what is there already is not counted, nor fetched again; nothing is asked where there is plenty."""
    whole, zeros = tmp_path / "whole", np.zeros((1000, 4), np.float16)  # that take less than before compression
    write_store(whole, zeros, np.zeros((1000, 2), np.uint32), chunk_rows=256, chunks_per_shard=2, codec="zstd")
    push(whole, door.url)
    size = sum(len(data) for name, data in bytes_of(whole).items() if "/c/" in name and "mean" not in name)
    for free, kept, asked in ((1.09 * size, False, 1), (1.11 * size, True, 1), (10**12, True, 0)):
        monkeypatch.setattr(FREE, lambda path, free=free: SimpleNamespace(free=free))
        door.asked.clear()
        store = ActivationStore.open(door.url)
        assert sum("list-type" in line for line in door.asked) == asked
        assert len(store[:]) == len(store.origin()) == 1000
        told = capsys.readouterr().err
        assert (f"{door.url} is read over the network" in told, told.count("\n")) == ((False, 0) if kept else (True, 1))
        assert bool(shards_below(store.path)) == kept
        if not kept:
            assert len(ActivationStore.open(door.url, cache=True)[:600]) == 600
            door.asked.clear()
            for cache in (None, False):
                assert len(ActivationStore.open(door.url, cache=cache)[:512]) == 512
            assert (requests(door), capsys.readouterr().err) == ([], "")
        shutil.rmtree(os.environ["SAE_CACHE"])


def test_the_environment_says_so_too_and_cache_stands_above_it(door, whole, monkeypatch, tmp_path, capsys):
    """For a folder that is linked to a bucket as well, as the train stage opens it."""
    push(whole, door.url, drop=True)
    monkeypatch.setenv("SAE_CACHE", "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "default"))
    for place in (whole, door.url):
        feed = Feed(ActivationStore.open(place), 32, seed=0)
        seen = torch.cat([feed.first(), *(feed.next() for _ in range(5)), *feed.others(2)])
        assert len(seen) == 8 * 32
    assert shards_below(whole) == shards_below(tmp_path / "default") == []
    assert bytes_of(tmp_path / "default")
    assert capsys.readouterr().err == ""
    assert torch.equal(next(ActivationStore.open(whole, cache=True).batches(32)), seen[:32])
    assert len(shards_below(whole)) == 2


def test_a_dataset_is_sent_to_spawned_workers_without_credentials(door, whole):
    push(whole, door.url)
    dataset = ActivationStore.open(door.url, cache=False).dataset(20, seed=2, epochs=1)
    packed = pickle.dumps(dataset)
    assert b"a-secret-of-the-test" not in packed
    assert b"obstore" not in packed, "which might pack what it took from the environment"
    expected = torch.cat(list(ActivationStore.open(whole).dataset(20, seed=2, epochs=1)))
    assert torch.equal(torch.cat(list(pickle.loads(packed))), expected)


def test_workers_are_spawned_where_they_have_to_ask_a_bucket(door, whole):
    push(whole, door.url)

    def spawned(store, n_workers=1, **options):
        context = store.dataset(20).loader(n_workers, **options).multiprocessing_context
        return context is not None and context.get_start_method() == "spawn"

    kept = ActivationStore.open(door.url)
    assert spawned(ActivationStore.open(door.url, cache=False))
    assert spawned(kept)
    assert not spawned(kept, multiprocessing_context="fork")
    assert not spawned(kept, n_workers=0)
    kept[:]
    assert not spawned(kept)
    assert not spawned(ActivationStore.open(whole))


@pytest.mark.slow
def test_the_train_stage_reads_a_linked_folder_whose_disk_is_too_small(door, whole, tmp_path, monkeypatch, capsys):
    """Two dictionaries in one pass, as a sweep trains them; each is what the rows on the disk give."""
    monkeypatch.chdir(tmp_path)
    push(whole, door.url)
    pull(door.url, "data/A/activations", record_only=True)
    monkeypatch.setattr(FREE, lambda path: SimpleNamespace(free=0))
    params = {"n_features": 8, "batch_size": 32, "n_steps": 20, "engine": "dense"}
    stage = Stage("train", {"run": {"device": "cpu"}, "wandb": {"mode": "disabled"}, "train": params})
    configs = {f"A/{seed}": TrainConfig(**params, seed=seed) for seed in (0, 1)}
    targets = {name: tmp_path / "data" / name / "dictionary" for name in configs}
    trained = train_stage(stage, configs, targets, tmp_path / "checkpoints", label="train")
    assert "is read over the network" in capsys.readouterr().err
    assert shards_below(tmp_path / "data/A/activations") == []
    for name, expected in zip(configs, train_many(ActivationStore.open(whole), list(configs.values())), strict=True):
        assert torch.equal(trained[name].dictionary.W_dec, expected.W_dec)


def test_numbers_lie_where_the_processor_wants_them():
    """A short answer begins anywhere: behind the headers that it came with."""
    answer = memoryview(bytes(range(100)))
    for start in range(4):
        bucket = SimpleNamespace(part=lambda name, at, size, start=start: answer[start + at : start + at + size])
        part = RangedFile(bucket, "shard", 90).part(8, 40)
        assert part.ctypes.data % 4 == 0
        assert part.tolist() == list(range(start + 8, start + 48))


@pytest.mark.slow
@pytest.mark.parametrize("cache", [True, False])
def test_workers_that_ask_a_bucket(door, whole, cache):
    """Spawned they give what one process gives; forked each says what to do."""
    push(whole, door.url)
    dataset = ActivationStore.open(door.url, cache=cache).dataset(20, seed=2, epochs=2)
    with pytest.raises(StoreError, match=r"forked.*dataset.loader\(\)"):
        next(iter(dataset.loader(1, multiprocessing_context="fork")))
    expected = list(ActivationStore.open(whole).dataset(20, seed=2, epochs=2))
    assert all(map(torch.equal, dataset.loader(2), expected))
