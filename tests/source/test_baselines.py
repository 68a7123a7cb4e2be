"""Unigram and Kneser-Ney bigram: a case worked by hand, probabilities that sum to 1, a slow dictionary version."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from sae.errors import CorpusError
from sae.source.baselines import Neighbours, discounts, fit_bigram, fit_unigram, measure_baselines
from sae.storage.tokens import Sequences

RNG = np.random.default_rng(0)
TEXT = (RNG.integers(0, 12, size=(40, 9)) * RNG.integers(0, 2, size=(40, 9))).astype(np.uint16)
V = 14  # tokens 12 and 13 never occur


def pairs(contexts: np.ndarray) -> Neighbours:
    return Neighbours.of(Sequences.whole(contexts))


def test_unigram_by_hand() -> None:
    """Predicted tokens are 1, 2, 1, 1 (not the first of a context); a half is added to each of 4 ids: n + V/2 = 6."""
    unigram = fit_unigram(pairs(np.array([[3, 1, 2], [3, 1, 1]])).token, 4)
    np.testing.assert_allclose(np.exp(unigram.log_probs), [0.5 / 6, 3.5 / 6, 1.5 / 6, 0.5 / 6])


def test_bigram_by_hand() -> None:
    """Contexts 0 1 1 and 0 1 2: pairs 01 twice, 11 once, 12 once; so few that the stand-in discounts 0.5 and 1 hold.

    q: kinds of left neighbour of 0, 1, 2 are 0, 2, 1; with a half each, of 4.5: 1/9, 5/9, 3/9.
    p(1|0) = (2-1)/2 + (1/2) (5/9); p(2|1) = (1-0.5)/2 + (2 · 0.5/2) (3/9); p(1|2) = q(1), as nothing follows 2.
    """
    bigram = fit_bigram(pairs(np.array([[0, 1, 1], [0, 1, 2]])), 3)
    found = np.exp(bigram.log_prob(np.array([0, 1, 1, 2]), np.array([1, 2, 0, 1])))
    np.testing.assert_allclose(found, [0.5 + 0.5 * 5 / 9, 0.25 + 0.5 * 3 / 9, 0.5 / 9, 5 / 9])


def test_probabilities_sum_to_one() -> None:
    assert np.exp(fit_unigram(pairs(TEXT).token, V).log_probs).sum() == pytest.approx(1)
    bigram = fit_bigram(pairs(TEXT), V)
    for previous in range(V):
        total = np.exp(bigram.log_prob(np.full(V, previous), np.arange(V))).sum()
        assert total == pytest.approx(1), previous


def test_discounts_are_chen_and_goodmans() -> None:
    """n1..n4 = 6, 3, 2, 1: Y = 6/12, D = 1 - 2Y·3/6, 2 - 3Y·2/3, 3 - 4Y·1/2."""
    counts = np.array([1] * 6 + [2] * 3 + [3] * 2 + [4, 9])
    np.testing.assert_allclose(discounts(counts), [0, 0.5, 1.0, 2.0])
    np.testing.assert_allclose(discounts(np.array([1, 2])), [0, 0.5, 1, 1.5])


def test_against_a_slow_version_with_dictionaries() -> None:
    heldout = RNG.integers(0, V, size=(5, 9))
    pairs = Counter((int(a), int(b)) for row in TEXT for a, b in pairwise(row))
    of = [sum(1 for c in pairs.values() if c == n) for n in range(5)]
    y = of[1] / (of[1] + 2 * of[2])
    d = [0.0, 1 - 2 * y * of[2] / of[1], 2 - 3 * y * of[3] / of[2], 3 - 4 * y * of[4] / of[3]]
    loss = []
    for row in heldout:
        for v, w in pairwise(row):
            total = sum(c for (a, _), c in pairs.items() if a == v)
            q = (sum(1 for _, b in pairs if b == w) + 0.5) / (len(pairs) + V / 2)
            freed = sum(d[min(c, 3)] for (a, _), c in pairs.items() if a == v) / total if total else 1.0
            c = pairs[(int(v), int(w))]
            loss.append(-np.log(((c - d[min(c, 3)]) / total if c else 0) + freed * q))
    assert measure_baselines(Sequences.whole(TEXT), Sequences.whole(heldout), V).bigram == pytest.approx(float(np.mean(loss)))


def test_a_bigram_knows_a_chain() -> None:
    contexts = (np.arange(10)[None] + RNG.integers(0, 10, size=(500, 1))) % 10
    losses = measure_baselines(Sequences.whole(contexts[:400]), Sequences.whole(contexts[400:]), 10)
    assert losses.bigram < 0.02
    assert losses.unigram == pytest.approx(np.log(10), abs=0.02)


def test_nothing_to_fit_on_is_refused() -> None:
    with pytest.raises(CorpusError, match="no two neighbouring tokens"):
        fit_bigram(pairs(np.zeros((4, 1), dtype=np.uint16)), 3)
