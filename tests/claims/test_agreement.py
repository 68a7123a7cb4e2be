"""Agreement with a hypothesis beside loops over tokens, and its intervals beside resampling by hand."""

import numpy as np
import pytest

from sae.claims.agreement import STATISTICS, Tokens, agreement, statistics, sums_by_context

N_CONTEXTS = 6


@pytest.fixture(scope="module")
def made():
    chance = np.random.default_rng(0)
    context = np.repeat(np.arange(N_CONTEXTS), 40)
    score = chance.normal(size=len(context))
    tokens = Tokens(context, np.maximum(score, 0.0), score > 0)
    good = np.maximum(score + 0.3 * chance.normal(size=len(context)) - 0.5, 0).astype(np.float32)
    bad = np.maximum(chance.normal(size=len(context)), 0).astype(np.float32)
    return tokens, good, bad


def by_hand(tokens, x):
    active = x > 0
    strong = x > x.max() / 2
    return [
        np.corrcoef(x.astype(np.float64), tokens.score)[0, 1],
        sum(float(v) for v, t in zip(x, tokens.true, strict=True) if t) / sum(map(float, x)),
        np.mean([t for s, t in zip(strong, tokens.true, strict=True) if s]),
        np.mean(tokens.true),
        np.mean([a for a, t in zip(active, tokens.true, strict=True) if t]),
        np.mean(active),
    ]


def test_statistics_are_those_of_loops(made):
    tokens, *units = made
    for x in units:
        sums = sums_by_context(tokens, x, N_CONTEXTS)
        assert sums.shape == (N_CONTEXTS, 13)
        np.testing.assert_allclose(statistics(sums.sum(0)), by_hand(tokens, x), rtol=1e-12)


def test_of_some_contexts_they_are_those_of_their_tokens(made):
    tokens, good, _ = made
    kept = np.isin(tokens.context, [1, 4])
    part = Tokens(*(values[kept] for values in tokens))
    some = statistics(sums_by_context(tokens, good, N_CONTEXTS)[[1, 4]].sum(0))
    whole = by_hand(part, good[kept])
    strong = STATISTICS.index("specificity of strong")  # above half the largest of all, not of these
    np.testing.assert_allclose(np.delete(some, strong), np.delete(whole, strong), rtol=1e-12)


def test_intervals_are_over_contexts_and_paired(made):
    tokens, good, bad = made
    units = [sums_by_context(tokens, x, N_CONTEXTS) for x in (good, bad)]
    found = agreement(units, 400, seed=1)
    r = found.interval(0, "pearson")
    assert r.low < r.value < r.high
    assert found.above(0, 1, "pearson") is True
    assert found.above(1, 0, "pearson") is False
    assert found.above(0, 0, "pearson") is False
    alike = agreement([np.tile(unit[:1], (N_CONTEXTS, 1)) for unit in units], 50, seed=1)
    low, high = alike.interval(0, "pearson")[1:]
    assert low == pytest.approx(high)  # contexts that are all the same leave no doubt, however few their tokens


def test_what_is_undefined_is_none_of_both(made):
    tokens, good, _ = made
    silent = np.zeros_like(good)
    found = agreement([sums_by_context(tokens, x, N_CONTEXTS) for x in (good, silent)], 20, seed=0)
    assert found.interval(1, "pearson").value is None
    assert found.interval(1, "specificity").value is None
    assert found.above(0, 1, "specificity") is None
    assert found.interval(1, "sensitivity").value == 0


def test_masses_are_of_activations_above_0(made):
    """A GELU's negative ones are many, and would cancel the others: such a share might be 5, or -3."""
    tokens, good, _ = made
    below = np.where(good > 0, good, -0.17).astype(np.float32)
    mass = STATISTICS.index("specificity")
    found, same = (statistics(sums_by_context(tokens, x, N_CONTEXTS).sum(0))[mass] for x in (below, good))
    assert found == same


def test_of_few_contexts_nothing_is_above(made):
    """Five that agree are no 97.5 %, though all their resamplings agree."""
    tokens, good, bad = made
    units = [sums_by_context(tokens, x, N_CONTEXTS)[:5] for x in (good, bad)]
    assert agreement(units, 50, seed=1).above(0, 1, "pearson") is None
