"""Harvest: exactly the rows asked for, each the activation at its context and position; refusals that say what to do."""

import numpy as np
import pytest
import torch

from sae import artefact
from sae import harvest as harvest_module
from sae.errors import ConfigError, CorpusError, DiskError, NumericsError
from sae.harvest import HarvestConfig, Plan, harvest
from sae.provenance import Run
from sae.storage.activations import ActivationStore
from tests.support.stores import make_tokens
from tests.support.toy_source import ToySource


@pytest.fixture
def tokens(tmp_path):
    return make_tokens(tmp_path / "tokens")


def run_harvest(path, tokens, source=None, **changes):
    config = HarvestConfig(**{"n_rows": 200, "positions_per_context": 5, "batch_contexts": 7, **changes})
    with artefact.writing(path, Run(kind="activations")) as draft:
        facts = harvest(source or ToySource(), tokens.split("train"), tokens.bos, config, draft.path)
        draft.run = Run(kind="activations", facts=facts)
    return ActivationStore.open(path)


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
        plan = Plan(HarvestConfig(n_rows=300, positions_per_context=5, seed=seed), split, tokens.bos)
        return plan.positions(0, 60, 16)

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

    with pytest.raises(NumericsError, match=r"neuron 3 at train context \d+, position 9 is not finite"):
        run_harvest(tmp_path / "acts", tokens, source=Broken())
    assert not (tmp_path / "acts.partial").exists()


def test_too_little_space_is_refused_before_work(tmp_path, tokens, monkeypatch):
    class Unused(ToySource):
        def activations(self, tokens):
            raise AssertionError("work began")

    monkeypatch.setattr(harvest_module.shutil, "disk_usage", lambda _: type("usage", (), {"free": 1000}))
    with pytest.raises(DiskError, match=r"needs 0.0 GiB at its peak"):
        run_harvest(tmp_path / "acts", tokens, source=Unused())
