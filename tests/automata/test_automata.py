"""Both numbers of every edge beside slow ones: effects by forward passes, counts by going through the text, nulls by another
library or by all permutations."""

import dataclasses
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from sae.automata.edges import AutomataConfig, find_automata, share_on
from sae.automata.exchange import Exchange
from sae.automata.report import motifs_of, report
from sae.chance import generator
from sae.errors import ConfigError
from sae.metrics.discovery import decoy_threshold
from tests.features.toy import dense, setup

CONFIG = AutomataConfig(n_tokens=320, min_count=2, contexts_per_batch=3, frequency_group=3)
ALL = np.ones(50, bool)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return setup(tmp_path_factory.mktemp("automata"))


@pytest.fixture(scope="module")
def found(made):
    return find_automata(*made, CONFIG, id="A/1", watched=ALL)


@pytest.fixture(scope="module")
def activations(made):
    """f [context, position, feature] with 0 at BOS, and the token ids."""
    source, dictionary, tokens = made
    contexts = tokens.split("heldout")[0:20]
    _, f, place = dense(source, dictionary, contexts)
    whole = np.zeros((20 * 16, 24))
    whole[place] = f
    return whole.reshape(20, 16, 24), contexts.tokens.astype(int)


def matrix(found, name):
    result = np.full((24, 24), np.nan)
    result[found.pairs.first, found.pairs.second] = getattr(found.pairs, name)
    return result


def slow_means(f, ids):
    return np.array([f[ids == k].mean(0) if k and (ids == k).any() else np.zeros(24) for k in range(50)])


def slow_change(made, f, ids):
    """Mean change of next-token probabilities, by forward passes with each feature ablated at every token but BOS."""
    source, dictionary, _ = made
    tokens = torch.from_numpy(ids)
    clean, change = source.logits(tokens).double().softmax(-1).numpy(), np.zeros((24, 50))

    def without(i):
        def replace(x):
            x = x.clone()
            x[:, 1:] -= dictionary.encode(x[:, 1:])[..., i, None] * dictionary.W_dec[i]
            return x

        return replace

    for i in range(24):
        ablated = source.logits(tokens, without(i)).double().softmax(-1).numpy()
        active = f[:, :-1, i] > 0
        if active.any():
            change[i] = (clean - ablated)[:, :-1][active].mean(0)
    return change


def test_effects_are_what_forward_passes_say(made, found, activations):
    f, ids = activations
    change, means = slow_change(made, f, ids), slow_means(f, ids)
    expected = change @ means
    alive = np.arange(24) != 3
    both = np.ix_(alive, alive)
    error = abs(matrix(found, "effect") - expected) / np.maximum(means.max(0), 1)
    assert error[both].max() < 1e-6
    assert abs(expected).max() > 0.01
    overall = f[:, 1:].mean((0, 1))
    np.testing.assert_allclose(
        matrix(found, "relative")[both], (expected / np.maximum(overall, 1e-300))[both], rtol=2e-4, atol=1e-5
    )
    assert not found.sampled


def test_steps_are_counted_as_one_counts_them(found, activations):
    f, _ = activations
    on = f > 0
    first, second = on[:, 1:-1], on[:, 2:]
    n = np.einsum("cti,ctj->ij", first.astype(int), second.astype(int))
    known = np.isfinite(matrix(found, "n"))
    np.testing.assert_array_equal(matrix(found, "n")[known], n[known])
    assert found.n_steps == 20 * 14
    lift = n / first.sum((0, 1))[:, None].clip(1) / second.mean((0, 1)).clip(1e-9)
    np.testing.assert_allclose(matrix(found, "lift")[known], lift[known], rtol=1e-9)


def test_the_observed_null_is_the_hypergeometric_distribution_of_each_context(found, activations):
    on = activations[0] > 0
    a, b = on[:, 1:-1].sum(1), on[:, 2:].sum(1)
    with np.errstate(all="ignore"):  # scipy's higher moments, which nobody asked for
        null = hypergeom(14, a[:, :, None], b[:, None, :])
        mean, variance = null.mean().sum(0), np.nan_to_num(null.var()).sum(0)
    known = np.isfinite(matrix(found, "n"))
    np.testing.assert_allclose(matrix(found, "expected")[known], mean[known], rtol=1e-6)
    z = np.divide(matrix(found, "n") - mean, np.sqrt(variance), out=np.zeros((24, 24)), where=variance > 1e-9)
    np.testing.assert_allclose(matrix(found, "observed")[known], z[known], rtol=1e-5, atol=1e-5)
    shuffled = found.pairs.observed_shuffled[found.pairs.observed_shuffled != 0]
    assert abs(shuffled.mean()) < 0.3
    assert shuffled.std() == pytest.approx(1, abs=0.25)


def test_the_causal_null_is_that_of_all_exchanges_within_groups(made, found, activations):
    f, ids = activations
    change, means = slow_change(made, f, ids), slow_means(f, ids)
    count = np.bincount(ids[:, 1:].ravel(), minlength=50)
    order = np.argsort(-count, kind="stable")[: (count > 0).sum()]
    mean, variance = np.zeros((24, 24)), np.zeros((24, 24))
    for begin in range(0, len(order), 3):
        group = order[begin : begin + 3]
        values = np.array([change[:, group] @ means[list(other)] for other in permutations(group)])
        mean, variance = mean + values.mean(0), variance + values.var(0)
    alive = np.ix_(np.arange(24) != 3, np.arange(24) != 3)
    z = (change @ means - mean) / np.sqrt(np.maximum(variance, 1e-300))
    np.testing.assert_allclose(matrix(found, "causal")[alive], z[alive], rtol=2e-3, atol=2e-3)


def test_lots_and_samples(made, found, monkeypatch):
    monkeypatch.setattr("sae.automata.edges.BLOCK", 5)
    monkeypatch.setattr("sae.automata.token_effects.CHUNK_FEATURES", 7)
    again = find_automata(*made, CONFIG, id="A/1", watched=ALL)
    for part, expected in zip(again.pairs, found.pairs, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-4, atol=1e-5)
    some = find_automata(*made, dataclasses.replace(CONFIG, firings_per_feature=5), watched=ALL)
    assert some.sampled
    np.testing.assert_array_equal(matrix(some, "n"), matrix(found, "n"))
    assert abs(matrix(some, "effect") - matrix(found, "effect"))[5, 6] > 1e-6


def test_edges_are_above_both_thresholds_and_the_report_tells_them(found):
    seen = dataclasses.replace(found, least=(0.5, 0.5))
    p, mask = seen.pairs, seen.mask()
    assert mask.sum() > 3
    np.testing.assert_array_equal(mask, (p.n >= 2) & (p.lift > 1) & (p.observed >= 0.5) & (p.causal >= 0.5))
    assert (
        seen.mask(shuffled_tokens=True).sum()
        == ((p.n >= 2) & (p.lift > 1) & (p.observed >= 0.5) & (p.causal_shuffled >= 0.5)).sum()
    )
    vocabulary = [b"_" if k % 2 else b"AB" for k in range(50)]
    by_order = (p.n_shuffled >= 2) & (p.n_shuffled > p.independent) & (p.observed_shuffled >= 0.5) & (p.causal >= 0.5)
    np.testing.assert_array_equal(seen.mask(shuffled_order=True), by_order)
    np.testing.assert_allclose(p.lift * p.independent, p.n)
    words = report(seen, motifs_of(seen, CONFIG), vocabulary, CONFIG)
    assert words["n_edges"] == mask.sum()
    assert words["n_motifs"]["self_loops"] == (p.first[mask] == p.second[mask]).sum()
    assert words["snake_case"]["n_capitals"] + words["snake_case"]["n_underscore"] == 23
    best = words["snake_case"]["best"]
    share = share_on(found.means, found.token_count, np.arange(50) % 2 == 0)
    assert share[best["capitals"]["feature"]] >= 0.5
    assert best["capitals"]["announces"] == best["underscore"]["feature"]


def test_an_exchange_keeps_tokens_in_their_group_of_like_frequency():
    count = np.array([0, 9, 1, 5, 7, 3, 0, 2])
    exchange = Exchange.of(count, 3, generator(0, "test"))
    assert exchange.token.tolist() == [1, 4, 3, 5, 7, 2]
    assert (exchange.permuted // 3).tolist() == [0, 0, 0, 1, 1, 1]
    assert sorted(exchange.permuted) == list(range(6))


def test_a_threshold_lets_through_as_many_decoys_as_it_may():
    scores, decoys = np.arange(1.0, 101.0), np.arange(1.0, 61.0)  # at 51 and above: 50 scores, 10 decoys
    assert decoy_threshold(scores, decoys, 11 / 50) == 51
    assert decoy_threshold(scores, decoys, 1 / 40) == 61
    assert decoy_threshold(scores, decoys + 100, 0.5) == float("inf")
    assert decoy_threshold(np.zeros(0), decoys, 0.5) == float("inf")


def test_what_cannot_be_done_says_so(made):
    class Deeper(type(made[0])):
        def readout(self):
            return None

    with pytest.raises(ConfigError, match="last layer"):
        find_automata(Deeper(), made[1], made[2], CONFIG)
    with pytest.raises(ConfigError, match="'false_discovery' = 2"):
        AutomataConfig(false_discovery=2.0)
