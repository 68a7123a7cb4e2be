"""Harvest: exactly the rows asked for, each the activation at its context and position; refusals that say what to do."""

import os

import numpy as np
import pytest
import torch

from sae import harvest as harvest_module
from sae.errors import ConfigError, CorpusError, DiskError, LockedError, NumericsError, StoreError
from sae.harvest import HarvestConfig, Plan
from sae.storage import layout
from sae.storage.activations import ActivationStore
from sae.storage.share import Share
from sae.storage.writer import StoreWriter
from tests.support.stores import make_tokens
from tests.support.toy_harvest import ByThreads, StoppedError, Stopping, bytes_of, small, threads, toy_harvest
from tests.support.toy_source import ToySource


@pytest.fixture
def tokens(tmp_path):
    return make_tokens(tmp_path / "tokens")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Several tasks, shards and chunks at a size that a test can hold."""
    monkeypatch.setattr(harvest_module, "TASK_BYTES", 2000)
    monkeypatch.setattr(layout, "CHUNK_BYTES", 128)
    monkeypatch.setattr(layout, "FEWEST_ROWS", 8)
    monkeypatch.setattr(layout, "CHUNKS_PER_SHARD", 4)


def run_harvest(path, tokens, source=None, *, share=None, keep=False, **changes):
    done = toy_harvest(path, tokens, source, share=share, keep=keep, **changes)
    return ActivationStore.open(path) if done else None


def test_rows_are_the_activations_at_their_origin(tmp_path, tokens):
    store, source = run_harvest(tmp_path / "acts", tokens), ToySource()
    train = torch.from_numpy(tokens.split("train")[0:60].tokens.astype(np.int64))
    everything = source.activations(train).numpy()
    origin = store.origin()
    np.testing.assert_array_equal(store[0:200], everything[origin[:, 0], origin[:, 1]].astype(np.float16))


def test_exactly_the_rows_asked_for_each_position_once(tmp_path, tokens):
    store = run_harvest(tmp_path / "acts", tokens, n_rows=199)
    origin = store.origin()
    assert len(store) == len({tuple(row) for row in origin}) == 199
    assert np.bincount(origin[:, 0]).max() == 5
    assert origin[:, 0].max() == 39


def test_bos_is_left_out_unless_asked_for(tmp_path, tokens):
    assert run_harvest(tmp_path / "a", tokens, positions_per_context=15).origin()[:, 1].min() == 1
    assert run_harvest(tmp_path / "b", tokens, positions_per_context=16, skip_bos=False).origin()[:, 1].min() == 0


def test_positions_are_uniform_and_seeded(tokens):
    split = tokens.split("train")

    def positions(seed):
        plan = Plan(HarvestConfig(n_rows=300, positions_per_context=5, seed=seed), split, tokens.bos, 8)
        return plan.positions.choose(0, split[0:60]).positions

    np.testing.assert_array_equal(positions(0), positions(0))
    assert (positions(0) != positions(1)).any()
    counts = np.bincount(np.concatenate([positions(seed).ravel() for seed in range(30)]), minlength=16)
    assert counts[0] == 0
    expected = 30 * 300 / 15
    assert (abs(counts[1:] - expected) < 5 * np.sqrt(expected)).all()


def test_batch_size_of_the_forward_pass_changes_nothing(tmp_path, tokens):
    a, b = (run_harvest(tmp_path / str(n), tokens, batch_contexts=n) for n in (7, 60))
    np.testing.assert_array_equal(a[0:200], b[0:200])
    np.testing.assert_array_equal(a.origin(), b.origin())


def test_facts(tmp_path, tokens):
    store = run_harvest(tmp_path / "acts", tokens)
    rows = store[0:200].astype(np.float64)
    assert store.mean_square_norm == pytest.approx((rows**2).sum(1).mean(), rel=1e-5)
    assert store.run.facts["square_norm_of_mean"] == pytest.approx((rows.mean(0) ** 2).sum(), rel=1e-5)


def test_a_corpus_too_small_is_refused_with_what_it_gives(tmp_path, tokens):
    with pytest.raises(CorpusError, match="60 train contexts at 5 positions each give 300"):
        run_harvest(tmp_path / "acts", tokens, n_rows=301)
    assert not (tmp_path / "acts").exists()
    assert not (tmp_path / "acts.partial").exists()


def test_more_positions_than_a_context_has(tmp_path, tokens):
    with pytest.raises(ConfigError, match="15 positions to take from"):
        run_harvest(tmp_path / "acts", tokens, positions_per_context=16)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 7e4])
def test_nonfinite_activations_name_their_place(tmp_path, tokens, value):
    class Broken(ToySource):
        def activations(self, tokens):
            activations = super().activations(tokens)
            activations[:, 9, 3] = value
            return activations

    with pytest.raises(NumericsError, match=r"neuron 3 at train context \d+, position 9 \(document \d+\) is not finite"):
        run_harvest(tmp_path / "acts", tokens, source=Broken())
    assert not (tmp_path / "acts").exists()


def test_too_little_space_is_refused_before_work(tmp_path, tokens, monkeypatch):
    class Unused(ToySource):
        def activations(self, tokens):
            raise AssertionError("work began")

    monkeypatch.setattr(harvest_module.shutil, "disk_usage", lambda _: type("usage", (), {"free": 1000}))
    with pytest.raises(DiskError, match=r"needs 0.0 GiB at its peak"):
        run_harvest(tmp_path / "acts", tokens, source=Unused())


def test_the_time_that_it_takes_is_that_of_its_batches_and_of_its_rows(tokens, monkeypatch):
    """40 contexts in 6 batches of 7: the first took 9 s, the second 2, then it is enough. 200 rows of 48 bytes, 96 a second."""
    clock = iter([0.0, 9.0, 11.0])
    monkeypatch.setattr(harvest_module.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(harvest_module, "PROBE_SECONDS", 10.0)
    monkeypatch.setattr(harvest_module, "TASK_BYTES", 2**20)
    monkeypatch.setattr(harvest_module, "BYTES_PER_SECOND", 96.0)
    config = HarvestConfig(n_rows=200, positions_per_context=5, batch_contexts=7)
    plan = Plan(config, tokens.split("train"), tokens.bos, 16)
    assert harvest_module.seconds_needed(ToySource(), tokens.split("train"), plan) == 6 * 2 + 100


@pytest.fixture
def undisturbed(tmp_path, tokens):
    run_harvest(tmp_path / "whole", tokens)
    return bytes_of(tmp_path / "whole")


@pytest.fixture(params=["pieces", "joined"])
def ways(request, monkeypatch):
    """Slices of any size are read from the pieces themselves, or pieces are joined by twos."""
    small(monkeypatch, joined=request.param == "joined")


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5])
def test_stopped_anywhere_it_goes_on_and_ends_with_the_same_bytes(tmp_path, tokens, undisturbed, ways, n):
    with pytest.raises(StoppedError):
        run_harvest(tmp_path / "acts", tokens, source=Stopping(n))
    assert not (tmp_path / "acts").exists()
    run_harvest(tmp_path / "acts", tokens)
    assert bytes_of(tmp_path / "acts") == undisturbed
    assert not (tmp_path / "acts.partial").exists()


class StoppingByThreads(ByThreads, Stopping):
    pass


@pytest.mark.parametrize("share", [None, Share(0, 1)])
def test_it_goes_on_with_the_number_of_threads_that_it_was_begun_with(tmp_path, tokens, share):
    with threads(1):
        run_harvest(tmp_path / "whole", tokens, source=ByThreads())
        with pytest.raises(StoppedError):
            run_harvest(tmp_path / "acts", tokens, source=StoppingByThreads(3), share=share)
    with threads(2):
        for one in dict.fromkeys((share, None)):
            store = run_harvest(tmp_path / "acts", tokens, source=ByThreads(), share=one)
        assert torch.get_num_threads() == 2
    assert store.run.facts["n_threads"] == 1
    assert bytes_of(tmp_path / "acts") == bytes_of(tmp_path / "whole")


def test_a_discarded_plan_says_nothing_of_threads(tmp_path, tokens):
    with threads(1), pytest.raises(StoppedError):
        run_harvest(tmp_path / "acts", tokens, source=Stopping(3))
    with threads(2):
        assert run_harvest(tmp_path / "acts", tokens, seed=1).run.facts["n_threads"] == 2


def test_what_was_done_is_not_done_again(tmp_path, tokens):
    with pytest.raises(StoppedError):
        run_harvest(tmp_path / "acts", tokens, source=Stopping(4))
    rest = Stopping(2)
    run_harvest(tmp_path / "acts", tokens, source=rest)
    assert rest.n_left == 0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shares_of_several_processes_make_the_same_store(tmp_path, tokens, undisturbed, ways, order):
    for _ in range(3):  # pieces, joined ones, shards
        for first in order:
            assert run_harvest(tmp_path / "acts", tokens, share=Share(first, 3)) is None
    assert len(list((tmp_path / "acts.partial/shards").iterdir())) == 7
    run_harvest(tmp_path / "acts", tokens, source=Stopping(0))
    assert bytes_of(tmp_path / "acts") == undisturbed


def test_another_plan_discards_or_is_refused(tmp_path, tokens, undisturbed):
    with pytest.raises(StoppedError):
        run_harvest(tmp_path / "acts", tokens, source=Stopping(4), seed=5)
    with pytest.raises(StoreError, match="unfinished work of another plan"):
        run_harvest(tmp_path / "acts", tokens, keep=True)
    with pytest.raises(StoreError, match="unfinished work of another plan"):
        run_harvest(tmp_path / "acts", tokens, share=Share(0, 2))
    run_harvest(tmp_path / "acts", tokens)
    assert bytes_of(tmp_path / "acts") == undisturbed


@pytest.mark.parametrize("where", ["records", "footer", "end", "empty", "missing", "foreign"])
def test_a_damaged_piece_is_made_again(tmp_path, tokens, undisturbed, where):
    with pytest.raises(StoppedError):
        run_harvest(tmp_path / "acts", tokens, source=Stopping(5))
    piece = tmp_path / "acts.partial" / "pieces" / "00001"
    data = bytearray(piece.read_bytes())
    if where == "missing":
        piece.unlink()
    else:
        at = {"records": 40, "footer": len(data) - 60, "end": len(data) - 3}.get(where)
        if at is not None:
            data[at] ^= 4
        piece.write_bytes({"empty": b"", "foreign": b"x" * 500}.get(where, bytes(data)))
    run_harvest(tmp_path / "acts", tokens)
    assert bytes_of(tmp_path / "acts") == undisturbed


def test_a_shard_that_was_damaged_before_the_commit_is_written_again(tmp_path, tokens, undisturbed, monkeypatch):
    def stopped(self, facts):
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "commit", stopped)
        with pytest.raises(StoppedError):
            run_harvest(tmp_path / "acts", tokens)
    shard = tmp_path / "acts.partial/store/activations.zarr/activations/c/1/0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    (tmp_path / "acts.partial/store/activations.zarr/zarr.json").write_text("{}")
    (tmp_path / "acts.partial/store/activations.zarr/activations/c/stray").write_text("of someone killed")
    run_harvest(tmp_path / "acts", tokens)
    assert bytes_of(tmp_path / "acts") == undisturbed


@pytest.mark.parametrize("n_bad", [1, 2])
def test_rows_that_are_not_finite_can_be_dropped_and_replaced(tmp_path, tokens, n_bad):
    class Broken(ToySource):
        def activations(self, tokens):
            activations = super().activations(tokens)
            activations[1:4, 1 : 1 + 4 * n_bad] = float("nan")
            return activations

    store = run_harvest(tmp_path / "acts", tokens, source=Broken(), nonfinite="drop")
    origin = store.origin()
    assert len(store) == len({tuple(row) for row in origin}) == 200
    assert np.isfinite(store[0:200]).all()
    assert store.run.facts["n_dropped"] > 0
    assert (origin[:, 0] >= 40).sum() == store.run.facts["n_dropped"]


def test_too_few_rows_to_replace_those_dropped(tmp_path, tokens):
    class Broken(ToySource):
        def activations(self, tokens):
            return super().activations(tokens) * float("nan")

    with pytest.raises(CorpusError, match="200 of 200 rows were not finite"):
        run_harvest(tmp_path / "acts", tokens, source=Broken(), nonfinite="drop")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_numbers_of_each_type(tmp_path, tokens, dtype):
    store, source = run_harvest(tmp_path / "acts", tokens, dtype=dtype), ToySource()
    origin = store.origin()
    train = torch.from_numpy(tokens.split("train")[0:60].tokens.astype(np.int64))
    expected = source.activations(train)[origin[:, 0].astype(int), origin[:, 1].astype(int)].to(getattr(torch, dtype)).float()
    torch.testing.assert_close(torch.from_numpy(store[0:200].astype(np.float32)), expected, rtol=0, atol=0)
    batch = next(store.batches(200))
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch.sum(0), expected.sum(0))


def test_two_writers_one_wins(tmp_path, tokens):
    class Second(ToySource):
        def activations(self, batch):
            with pytest.raises(LockedError, match=f"by process {os.getpid()}"):
                run_harvest(tmp_path / "acts", tokens)
            return super().activations(batch)

    assert len(run_harvest(tmp_path / "acts", tokens, source=Second())) == 200
