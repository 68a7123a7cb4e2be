"""Every feature ablated at every token, beside forward passes with a hook; the compiled loop beside numpy in float64."""

import numpy as np
import pytest
import torch

from sae.automata.token_effects import drawn
from sae.causal.interventions import ablation_effect
from sae.features import ablations
from sae.features.ablations import ablation_columns, changes_of, pairs_of
from sae.features.config import FeaturesConfig
from sae.features.part import read
from sae.kernels.native_ablation import loss_changes, power_of_e
from sae.source.readout import Readout
from tests.features.toy import setup

CONFIG = FeaturesConfig(n_tokens=10**6, contexts_per_batch=7)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    source, dictionary, tokens = setup(tmp_path_factory.mktemp("ablations"))
    return source, dictionary, tokens.split("heldout"), read(source, dictionary, tokens, CONFIG)


def columns(made, memory=2**30, source=None):
    given, dictionary, split, reading = made
    return ablation_columns(source or given, dictionary.W_dec, split, reading.firings, memory=memory, contexts_per_batch=7)


def test_every_feature_is_what_forward_passes_with_it_ablated_say(made):
    source, dictionary, split, reading = made
    found = columns(made)
    tokens = torch.from_numpy(split[0 : reading.limit].tokens.astype(np.int64))
    for feature in range(24):
        expected = ablation_effect(source, dictionary, tokens, feature, bos=0)
        assert found["n_ablated"][feature] == expected.n_active
        if feature == 3:
            assert np.isnan(found["ablation_loss"][feature])
        else:
            assert found["ablation_loss"][feature] == pytest.approx(-expected.mean_when_active, abs=2e-6)
    assert found["n_ablated"][5] == 20 * 14  # 16 positions but BOS, which is left clean, and the last, which predicts nothing
    assert abs(np.delete(found["ablation_loss"], 3)).min() > 1e-5


@pytest.mark.parametrize("n_features", [1, 7])
def test_some_features_at_a_time_are_the_same(made, monkeypatch, n_features):
    whole, widths = columns(made), []
    plain = ablations.changes_of
    monkeypatch.setattr(ablations, "changes_of", lambda *given: widths.append(len(given[4])) or plain(*given))
    readout = made[0].readout()
    found = columns(made, memory=8 * n_features * (2 * len(readout.W_U) + made[0].n_vocab) + 6)
    assert widths == [n_features] * (24 // n_features) + [24 % n_features] * (24 % n_features > 0)
    np.testing.assert_array_equal(found["n_ablated"], whole["n_ablated"])
    np.testing.assert_allclose(
        found["ablation_loss"], whole["ablation_loss"], atol=1e-6
    )  # products of other shapes round otherwise


def test_multiplied_out_it_is_the_same(made, monkeypatch):
    """As on a GPU."""
    source, dictionary, split, reading = made
    readout, pairs = source.readout(), pairs_of(reading.firings, 16)
    u = readout.centre(dictionary.W_dec @ readout.W_out)
    monkeypatch.setattr(ablations, "MOST_LOGITS", 500)
    exact, found = (changes_of(source, readout, split, pairs, u, v, 7) for v in (u @ readout.W_U, None))
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_a_sample_is_of_the_asked_for_size_and_fair(made):
    firings = made[3].firings
    every = pairs_of(firings, 16)
    pairs, counts = drawn(every, 40), np.bincount(every.feature, minlength=24)
    np.testing.assert_array_equal(np.bincount(pairs.feature, minlength=24), np.minimum(counts, 40))
    assert 3 < (counts <= 40).sum() < 20
    assert (np.diff(pairs.token) >= 0).all()
    mine = pairs.token[pairs.feature == 5]
    assert len(set(mine)) == 40
    assert abs(mine.mean() / 320 - 0.5) < 0.15  # from all over the pass
    known = {(int(t), int(i)): v for t, i, v in zip(firings.token, firings.feature, firings.value, strict=True)}
    assert all(known[int(t), int(i)] == v for t, i, v in zip(*pairs, strict=True))


def test_where_more_lies_between_it_is_not_told(made):
    class Deeper(type(made[0])):
        def readout(self):
            return None

    found = columns(made, source=Deeper())
    assert np.isnan(found["ablation_loss"]).all()
    assert (found["n_ablated"] == 0).all()


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_changes_of_any_size_beside_float64(norm):
    """Also those after which no logit is near what it was, which float32 holds only from another reference."""
    rng = np.random.default_rng(0)
    residual, u = rng.normal(size=(6, 8)).astype(np.float32), rng.normal(size=(5, 8)).astype(np.float32)
    W_U, bias = rng.normal(size=(8, 70)).astype(np.float32), rng.normal(size=70).astype(np.float32)
    row = np.repeat(np.arange(6), 4)
    feature, target = rng.integers(0, 5, 24).astype(np.uint16), rng.integers(0, 70, 6)
    value = np.tile(np.array([0.0, 0.5, 30.0, 400.0], np.float32), 6)
    found = np.zeros(24)
    given = (residual, residual @ W_U, u, u @ W_U, bias, target, 1e-5, norm != "none", found)
    loss_changes(0, 11, row, feature, value, *given)
    loss_changes(11, 24, row, feature, value, *given)

    def loss(x, target):
        scale = 1.0 if norm == "none" else 1 / np.sqrt((x * x).mean() + 1e-5)
        logits = scale * x @ W_U.astype(np.float64) + bias
        return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target]

    wide, u_wide = residual.astype(np.float64), u.astype(np.float64)
    for j in range(24):
        r = row[j]
        expected = loss(wide[r] - value[j] * u_wide[feature[j]], target[r]) - loss(wide[r], target[r])
        assert found[j] == pytest.approx(expected, rel=2e-6, abs=3e-6)
    if norm == "none":
        assert abs(found).max() > 500


def test_powers_of_e():
    x = np.linspace(-87, 88, 5001).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    error = abs(np.array([power_of_e(each) for each in x]) / exact - 1)
    assert (error < 3e-7 + 1.1e-7 * abs(x)).all()
    assert 0 <= power_of_e(np.float32(-1e9)) < 1e-37
    assert power_of_e(np.float32(1e9)) > 1e38


@pytest.mark.parametrize("norm", ["layer", "rms", "none"])
def test_a_readout_in_numpy(norm):
    rng = np.random.default_rng(1)
    x, W_U, bias = rng.normal(size=(4, 8)), rng.normal(size=(8, 9)), rng.normal(size=9)
    as_float = [torch.from_numpy(part).float() for part in (x, W_U, bias)]
    readout = Readout(residual=lambda tokens: tokens, W_out=torch.eye(8), W_U=as_float[1], bias=as_float[2], norm=norm, eps=0.3)
    if norm == "layer":
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 0.3)
    if norm == "rms":
        x = x / np.sqrt((x * x).mean(1, keepdims=True) + 0.3)
    np.testing.assert_allclose(readout.logits(as_float[0]), x @ W_U + bias, atol=1e-5)
