"""Grams against a dictionary of tuples."""

from collections import Counter

import numpy as np
import pytest

from sae.interpret import grams
from tests.interpret.corpus import contexts


def slow(text, fitting, n, min_count):
    """Of each token, its grams of all lengths as tuples (None where it would leave the document), and the frequent ones."""
    flat, document = text.tokens.ravel(), text.document.ravel()
    length = text.tokens.shape[1]
    mine = []
    for t in range(len(flat)):
        whole = [()] if document[t] >= 0 else [None]
        for k in range(1, n + 1):
            inside = t % length >= k - 1 and (document[t - k + 1 : t + 1] == document[t]).all() and document[t] >= 0
            whole.append(tuple(flat[t - k + 1 : t + 1].tolist()) if inside else None)
        mine.append(whole)
    counts = Counter(gram for t in np.flatnonzero(fitting) for gram in mine[t] if gram is not None)
    return mine, {gram: count for gram, count in counts.items() if count >= min_count or gram == ()}


@pytest.mark.parametrize(("n", "min_count"), [(1, 1), (2, 3), (3, 2), (3, 30)])
def test_grams_are_the_frequent_tuples(n, min_count):
    text = contexts()
    fitting = (text.document.ravel() >= 0) & (text.document.ravel() % 3 > 0)
    found = grams.find_grams(text, fitting, n, min_count)
    mine, frequent = slow(text, fitting, n, min_count)
    assert len(found.size) == len(frequent)
    for t, whole in enumerate(mine):
        for k, gram in enumerate(whole):
            known = gram in frequent
            assert (found.member[k, t] >= 0) == known, (t, gram)
            if known:
                assert found.size[found.member[k, t]] == frequent[gram]
        longest = [k for k, gram in enumerate(whole) if gram in frequent]
        assert found.leaf[t] == (found.member[longest[-1], t] if longest else grams.NONE)


def test_sums_by_loops():
    text = contexts(20)
    fitting = text.document.ravel() >= 0
    found = grams.find_grams(text, fitting, 3, 2)
    token, value = np.flatnonzero(fitting)[::3], np.random.default_rng(0).random(len(np.flatnonzero(fitting)[::3]))
    expected = np.zeros(len(found.size))
    for t, v in zip(token, value, strict=True):
        for gram in found.member[:, t]:
            if gram >= 0:
                expected[gram] += v
    assert grams.sums(found, token, value) == pytest.approx(expected)
    assert grams.sums(found, np.flatnonzero(fitting)) == pytest.approx(found.size)
