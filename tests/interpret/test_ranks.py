"""Ranks and what is made of them against scipy, and against entries repeated by their weights."""

import math

import numpy as np
import pytest
from scipy import stats

from sae.interpret import ranks

CASES = [np.random.default_rng(seed).integers(0, 6, (2, 40)).astype(np.float64) for seed in range(5)]


@pytest.mark.parametrize(("x", "y"), CASES)
def test_against_scipy(x, y):
    assert ranks.midranks(x) == pytest.approx(stats.rankdata(x) - 0.5)
    assert ranks.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    positive = y > 3
    u = stats.mannwhitneyu(x[positive], x[~positive]).statistic
    assert ranks.auc(x, positive) == pytest.approx(u / (positive.sum() * (~positive).sum()))


@pytest.mark.parametrize(("x", "y"), CASES)
def test_a_weight_is_a_number_of_copies(x, y):
    weight = np.arange(len(x)) % 4 + 1
    many = stats.spearmanr(np.repeat(x, weight), np.repeat(y, weight)).statistic
    assert ranks.spearman(x, y, weight.astype(np.float64)) == pytest.approx(many)
    copies = ranks.auc(np.repeat(x, weight), np.repeat(y > 3, weight))
    assert ranks.auc(x, y > 3, weight.astype(np.float64)) == pytest.approx(copies)
    assert copies != ranks.auc(x, y > 3)


def test_a_constant_scores_nothing():
    x = np.arange(5.0)
    assert ranks.spearman(x, np.zeros(5)) == ranks.spearman(np.ones(5), x) == ranks.spearman(x[:0], x[:0]) == 0
    weight = np.random.default_rng(0).random(40)  # half of their sum by pairs is not half of their sum in a row
    for constant in (np.zeros(40), np.full(40, 3)):
        assert ranks.spearman(constant, constant, weight) == ranks.spearman(np.arange(40), constant, weight) == 0
    assert ranks.spearman(x, np.array([1.0, 1, 1, 1, 2]), np.array([1.0, 1, 1, 1, 0])) == 0
    assert ranks.auc(np.zeros(5), x > 2) == 0.5
    assert math.isnan(ranks.auc(x, x > 9))


def test_balanced_accuracy_by_hand():
    """4 of 10 are positive; 5 are predicted, 3 of them rightly: (3/4 + 4/6) / 2."""
    assert ranks.balanced_accuracy(3, 5, 4, 10) == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert ranks.balanced_accuracy(0, 0, 4, 10) == ranks.balanced_accuracy(4, 10, 4, 10) == 0.5
    assert math.isnan(ranks.balanced_accuracy(0, 0, 0, 10))
