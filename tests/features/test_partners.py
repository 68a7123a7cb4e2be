"""The most correlated features beside dense Pearson correlations in float64."""

import numpy as np
import pytest

from sae.features.firings import Firings
from sae.features.partners import Partners, partner_columns


def firings_of(f, place):
    """Of dense activations [row, feature] at the places [row]."""
    feature, row = np.nonzero(f.T)
    start = np.concatenate([[0], np.cumsum((f > 0).sum(0))])
    return Firings(f.shape[1], feature.astype(np.uint16), place[row].astype(np.int32), f[row, feature], start)


def correlations(f, g):
    """Dense; 0 for a constant."""
    f, g = (each.astype(np.float64) - each.astype(np.float64).mean(0) for each in (f, g))
    f, g = (np.where(np.ptp(each, axis=0) > 0, each / np.maximum(np.linalg.norm(each, axis=0), 1e-300), 0) for each in (f, g))
    return f.T @ g


def assert_exact(f, g, *, own):
    """Every fourth place is left out, as BOS is."""
    place = np.flatnonzero(np.arange(2 * len(f)) % 4)[: len(f)]
    partners = Partners.of(firings_of(g, place), 2 * len(f), len(f))
    found = partner_columns("any", firings_of(f, place), partners, own=0 if own else None)
    r = correlations(f, g)
    for i, (ids, values) in enumerate(zip(*found.values(), strict=True)):
        alive = [j for j in range(g.shape[1]) if g[:, j].any() and f[:, i].any() and not (own and j == i)]
        n = min(5, len(alive))
        assert set(ids[n:]) <= {-1}
        assert len(set(ids[:n]) & set(alive)) == n, i
        for each in (r[i, ids[:n]], values[:n]):
            np.testing.assert_allclose(each, np.sort(r[i, alive])[::-1][:n], rtol=0, atol=2e-7)


def activations(seed, n_rows, n_features):
    """Of every density; some fire never, once, or everywhere with one value, some are another one again."""
    rng = np.random.default_rng(seed)
    f = rng.exponential(size=(n_rows, n_features)) * (rng.random((n_rows, n_features)) < 10 ** rng.uniform(-2, 0, n_features))
    for j, kind in enumerate(rng.integers(0, 10, n_features)):
        if kind == 0:
            f[:, j] = 0
        elif kind == 1:
            f[:, j] = np.eye(n_rows)[rng.integers(n_rows)]
        elif kind == 2:
            f[:, j] = 0.7
        elif kind == 3:
            f[:, j] = f[:, rng.integers(n_features)]
    return f.astype(np.float32)


@pytest.mark.parametrize(("n_rows", "n_features", "n_other"), [(200, 130, 70), (40, 30, 3), (5, 64, 9), (1, 3, 2), (30, 1, 1)])
def test_any_firings(n_rows, n_features, n_other):
    for seed in range(4):
        f, g = activations(seed, n_rows, n_features), activations(seed + 10, n_rows, n_other)
        assert_exact(f, f, own=True)
        assert_exact(f, g, own=False)


def test_of_equals_the_lower_ids():
    f = activations(3, 50, 4)[:, [1, 0, 1, 1, 2, 1, 1, 1, 3, 1]]
    place = np.arange(50)
    found = partner_columns("any", firings_of(f, place), Partners.of(firings_of(f, place), 50, 50), own=0)
    assert found["any_correlated_ids"][[0, 5, 9]].tolist() == [[2, 3, 5, 6, 7], [0, 2, 3, 6, 7], [0, 2, 3, 5, 6]]


def test_values_whose_products_float32_does_not_hold():
    """Of too many digits (nearly constant, so that correlations are of the last ones), and too small: 1e-60."""
    rng = np.random.default_rng(0)
    f = (1000 + rng.random((60, 9))).astype(np.float32)
    assert_exact(f, f, own=True)
    assert_exact(f, f * np.float32(1e-30), own=False)
    f = activations(0, 12, 40) * np.float32(1e-30)
    assert_exact(f, f, own=True)
