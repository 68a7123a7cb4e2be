"""Universality on a toy, each number beside a slow one from dense arrays; chance; and the same dictionary in another order."""

import dataclasses

import numpy as np
import pytest
import torch

from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.errors import ConfigError, CorpusError
from sae.features import correlations
from sae.features.correlations import best_of, by_token, feature_blocks, moments
from sae.features.firings import FiringsReader
from sae.features.logits import allowed_tokens, mean_inverse_scale
from sae.features.side_by_side import Side
from sae.features.universality import UniversalityConfig, compare, told
from sae.metrics.density import active_entries
from tests.features.toy import dense, random_dictionary
from tests.support.stores import make_tokens
from tests.support.toy_source import ToySource

CONFIG = UniversalityConfig(n_tokens=320, min_active=1, n_bootstrap=50, logit_min_count=1, contexts_per_batch=3)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Two sides over one token store; feature 3 of the first never fires, feature 2 of the second neither."""
    tokens = make_tokens(tmp_path_factory.mktemp("toy") / "tokens")
    first = Side("A/1", ToySource(), random_dictionary())
    second = Side("B/1", ToySource(seed=1), random_dictionary(n_features=20, seed=2))
    first.dictionary.b_enc[3] = second.dictionary.b_enc[2] = -1e3
    return tokens, first, second


@pytest.fixture(scope="module")
def found(toy):
    tokens, first, second = toy
    return compare(first, second, tokens, CONFIG)


def arrays(toy, roll=0):
    """Neurons and features of both sides [row, unit], the second's of contexts `roll` on, and each row's place."""
    tokens, first, second = toy
    contexts = tokens.split("heldout")[0:20]
    rolled = contexts._replace(tokens=np.roll(contexts.tokens, -roll, axis=0))
    x, f, place = dense(first.source, first.dictionary, contexts)
    y, g, _ = dense(second.source, second.dictionary, rolled)
    return x, f, y, g, place


def correlation(a, b):
    """Slow and two-pass; NaN where a column is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    with np.errstate(invalid="ignore"):
        return (a.T @ b) / np.sqrt(np.outer((a**2).sum(0), (b**2).sum(0)))


def check(best, expected):
    """NaN, of a unit that never fires, is below everything on both sides."""
    known = np.nan_to_num(expected, nan=-2)
    np.testing.assert_allclose(np.nan_to_num(best.correlation, nan=-2), known.max(1), atol=2e-6)
    np.testing.assert_allclose(np.nan_to_num(best.backward, nan=-2), known.max(0), atol=2e-6)
    for i, j in enumerate(best.partner):
        assert j == -1 if known[i].max() == -2 else known[i, j] == pytest.approx(known[i].max(), abs=2e-6)


@pytest.mark.parametrize("null", [False, True])
def test_best_matches_of_features_and_neurons_are_the_slow_ones(toy, found, null):
    x, f, y, g, _ = arrays(toy, found.roll if null else 0)
    of_features, of_neurons = correlation(f, g), correlation(x, y)
    for matches, expected in ((found.features, of_features), (found.neurons, of_neurons)):
        best = matches.null if null else matches.best
        check(best, expected)
        paired = best.matched >= 0
        np.testing.assert_allclose(best.matched_correlation[paired], expected[paired, best.matched[paired]], atol=2e-6)
    assert found.features.best.partner[3] == -1
    assert not found.features.counted[3]
    assert 2 not in found.features.best.partner
    assert found.n_active.tolist() == (f > 0).sum(0).tolist()


def test_logit_and_attribution_correlations_are_the_slow_ones(toy, found):
    tokens, first, second = toy
    _, f, _, g, place = arrays(toy)
    ids = tokens.split("heldout")[0:20].tokens.astype(int)
    following = np.full(ids.shape, -1)
    following[:, :-1] = ids[:, 1:]
    following = following.ravel()[place]
    last = following >= 0
    v, w = (
        side.source.logit_weights(side.dictionary.W_dec, mean_inverse_scale(side.source, tokens)).double().numpy()
        for side in (first, second)
    )
    a, b = f[last] * v[:, following[last]].T, g[last] * w[:, following[last]].T
    allowed = allowed_tokens(tokens, 1, 50)
    logit, attribution = correlation(v[:, allowed].T, w[:, allowed].T), correlation(a, b)
    partner = found.features.best.partner
    paired = partner >= 0
    np.testing.assert_allclose(found.effects.logit[paired], logit[paired, partner[paired]], atol=1e-5)
    np.testing.assert_allclose(found.effects.attribution[paired], attribution[paired, partner[paired]], atol=1e-5)
    assert np.isnan(found.effects.logit[~paired]).all()
    assert not np.allclose(found.shuffled.logit[paired], found.effects.logit[paired])


def test_a_block_at_a_time_it_is_the_same(toy, found, monkeypatch):
    tokens, first, second = toy
    small = compare(first, second, tokens, dataclasses.replace(CONFIG, matching_pairs=1))
    assert small.features.best.matched is None
    np.testing.assert_array_equal(small.features.best.correlation, found.features.best.correlation)
    firings = [read(torch.from_numpy(arrays(toy)[k]).float()) for k in (1, 3)]
    n = 300
    for size in (1, 7, 24):
        monkeypatch.setattr(correlations, "BLOCK_PAIRS", 20 * size)
        sums = [moments(one, n) for one in firings]
        blocks = list(feature_blocks(firings[0], by_token(firings[1], n), *sums))
        assert [block.first for block in blocks] == list(range(0, 24, size))
        joined = torch.cat([block.correlation for block in blocks]).numpy()
        np.testing.assert_allclose(joined, np.nan_to_num(correlation(*(arrays(toy)[k] for k in (1, 3)))), atol=2e-6)


def read(f):
    reader = FiringsReader(f.shape[1], 2**30)
    reader.add(active_entries(f), np.arange(len(f)), fraction_read=1.0)
    return reader.result()


def test_chance_gives_what_the_normal_distribution_says():
    """Of m = 60 independent units over N tokens the largest correlation is about E[max of m normals] / √N = 2.32 / √N."""
    g = torch.Generator().manual_seed(0)
    f, h = (torch.randn(4000, 60, generator=g).sub(1).relu() for _ in range(2))
    firings = read(f), read(h)
    sums, all_of_them = [moments(one, 4000) for one in firings], torch.ones(60, dtype=torch.bool)
    for roll in (0, 1717):
        blocks = feature_blocks(firings[0], by_token(firings[1], 4000), *sums, roll=roll)
        best = best_of(blocks, all_of_them, all_of_them, match=False)
        assert best.correlation.mean() == pytest.approx(2.32 / 4000**0.5, rel=0.1)


def test_the_same_dictionary_in_another_order_is_found(toy):
    tokens, first, _ = toy
    d = first.dictionary
    order = torch.randperm(d.n_features, generator=torch.Generator().manual_seed(0))
    other = Side("A/2", first.source, TiedBiasDictionary(d.W_enc[order], d.b_enc[order], d.W_dec[order], d.b_dec))
    found = compare(first, other, tokens, CONFIG)
    back = torch.argsort(order).numpy()
    alive = np.arange(24) != 3
    assert found.neurons is None
    for partner in (found.features.best.partner, found.features.best.matched):
        np.testing.assert_array_equal(partner[alive], back[alive])
    for values in (found.features.best.correlation, *found.effects):
        np.testing.assert_allclose(values[alive], 1, atol=1e-6)
    summary = found.summary(CONFIG)
    assert summary["share_above_null"] > 0.9
    assert summary["medians"]["features, best"]["median"] == pytest.approx(1)
    assert "features, best " in told(found, summary)


def test_what_cannot_be_compared_says_so(toy):
    tokens, first, second = toy
    big = Side("A/3", first.source, random_dictionary(n_features=3000, bias=5.0))
    with pytest.raises(ConfigError, match=r"universality\.memory_mb leaves 1\.0 .* is spent"):
        compare(big, second, tokens, dataclasses.replace(CONFIG, memory_mb=1))
    with pytest.raises(CorpusError, match="cannot be shuffled"):
        compare(first, second, tokens, dataclasses.replace(CONFIG, n_tokens=1))
    with pytest.raises(ConfigError, match="'min_active' = 0"):
        UniversalityConfig(min_active=0)
