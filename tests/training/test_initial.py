"""Where a dictionary starts: the geometric median, against what defines it; how many features are active, counted."""

import dataclasses

import numpy as np
import pytest
import torch

from sae.training.initial import geometric_median, initial_weights, threshold
from sae.training.recipes import RECIPES
from tests.support.toy_training import toy_rows


def test_geometric_median_of_a_heavy_cluster_is_that_cluster():
    """More than half the points in one place: the geometric median is that place, wherever the others are."""
    points = torch.cat([torch.ones(6, 3), torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 100])
    torch.testing.assert_close(geometric_median(points), torch.ones(3), atol=1e-3, rtol=0)


def test_geometric_median_has_no_net_pull():
    """At the minimum of Σ‖x − m‖ the unit vectors to all points sum to nothing. The mean and the median of
    each coordinate fail this."""
    points = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)).exp().double()
    median = geometric_median(points, tolerance=1e-12, iterations=1000)

    def pull(m):
        return float(torch.nn.functional.normalize(points - m, dim=1).mean(0).norm())

    assert pull(median) < 1e-6
    assert pull(points.mean(0)) > 1e-2
    assert pull(points.median(0).values) > 1e-3


def test_geometric_median_of_one_point_repeated_is_that_point():
    assert torch.equal(geometric_median(torch.full((5, 3), 0.25)), torch.full((3,), 0.25))


def start(recipe, n_features, rows):
    return initial_weights(recipe, n_features, rows, np.random.default_rng(0))


def active(weights, rows, *, tied=True):
    """Rows on which each feature is active, counted in float64 by numpy."""
    seen = (rows - weights.b_dec if tied else rows).double().numpy()
    before = seen @ weights.W_enc.double().numpy().T + weights.b_enc.double().numpy()
    return (before > 1e-6).sum(0)


@pytest.mark.parametrize("changes", [{}, {"start": "transposed"}, {"tied_bias": False}, {"centre": "zeros"}])
def test_a_wide_dictionary_starts_with_as_many_features_active_as_asked_for(changes):
    """10 of 1,200 features on a row: each on 1/120 of the rows, 5 of 600."""
    recipe = dataclasses.replace(RECIPES["default"], active_at_start=10, **changes)
    rows = toy_rows(600, 16, seed=3)
    assert (active(start(recipe, 1200, rows), rows, tied=recipe.tied_bias) == 5).all()


def test_where_half_the_features_are_few_enough_the_start_is_the_paper_s():
    paper, limited = (dataclasses.replace(RECIPES["default"], active_at_start=n) for n in (None, 12))
    rows = toy_rows(100, 8)
    for ours, theirs in zip(start(limited, 24, rows), start(paper, 24, rows), strict=True):
        assert torch.equal(ours, theirs)
    wider, theirs = start(limited, 25, rows), start(paper, 25, rows)
    assert not torch.equal(wider.b_enc, theirs.b_enc)
    assert torch.equal(wider.W_enc, theirs.W_enc)
    assert torch.equal(wider.W_dec, theirs.W_dec)


def test_no_recipe_limits_it():
    assert {recipe.active_at_start for recipe in RECIPES.values()} == {None}


def test_a_threshold_leaves_every_feature_a_row_and_looks_at_no_more_than_it_says():
    W_enc, rows = torch.eye(3), toy_rows(5000, 3)
    assert torch.equal(threshold(W_enc, rows[:7], 0.0), -rows[:7].topk(2, dim=0).values[1])
    assert torch.equal(threshold(W_enc, rows[:1], 0.1), -rows[0])
    assert torch.equal(threshold(W_enc, rows, 0.25), threshold(W_enc, rows[:4096], 0.25))
    assert not torch.equal(threshold(W_enc, rows[:4096], 0.25), threshold(W_enc, rows[:4000], 0.25))
