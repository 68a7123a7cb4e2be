"""Distributions of how a dictionary's vectors lie to the neurons, beside closed forms of planted and random directions."""

import dataclasses

import numpy as np
import pytest
import torch

from sae.errors import ConfigError
from sae.features.alignment import alignment, expected_above_tenth, random_spread
from sae.features.neurons import participation_ratio
from sae.features.table import FeatureTable
from tests.web import fake_table


def test_the_participation_ratio_counts_neurons_that_are_alike():
    planted = torch.zeros(4, 32)
    planted[0, 3] = -2.0
    planted[1, 5:12] = torch.tensor([1.0, -1, 1, -1, 1, 1, 1])
    planted[2] = 0.3
    torch.testing.assert_close(participation_ratio(planted), torch.tensor([1.0, 7.0, 32.0, 0.0]))


def test_random_directions_are_as_theory_says():
    """Coefficients c of n: Σ c⁴ has mean 3 / (n + 2), and c² is nearly χ² / n; the largest of n is below √(2 ln 2n / n)."""
    n = 512
    spread = random_spread(n, 2000, seed=0)
    assert spread.participation_ratio[2] == pytest.approx((n + 2) / 3, rel=0.02)
    assert spread.n_above_tenth[2] == pytest.approx(expected_above_tenth(n), abs=1)
    assert expected_above_tenth(n) == pytest.approx(12.1, abs=0.1)  # 512 · P(|normal| ≥ 0.1 √512)
    bound = np.sqrt(2 * np.log(2 * n) / n)
    assert 0.8 * bound < spread.largest_coefficient[2] < bound
    assert list(spread.largest_coefficient) == sorted(spread.largest_coefficient)
    assert (spread.share_one_neuron, spread.share_few_neurons) == (0, 0)
    assert random_spread(n, 50, seed=1) == random_spread(n, 50, seed=1) != random_spread(n, 50, seed=2)


def test_features_are_summarised_over_those_that_fired():
    table = fake_table.make(n_features=40)
    columns = {name: table[name].copy() for name in table._columns}
    columns["participation_ratio"][:] = np.concatenate([[1.2] * 10, [8.0] * 20, [100.0] * 10])
    columns["participation_ratio"][fake_table.DEAD] = 1e6
    columns["neuron_coefficient_values"][:, 0] = -np.linspace(0, 1, 40)
    found = alignment(FeatureTable(columns, table.info, table.vocabulary, table.run), 512, n_random=100)
    fired = np.arange(40) != fake_table.DEAD
    assert (found.n_features, found.d_mlp) == (39, 512)
    assert found.features.share_one_neuron == pytest.approx(9 / 39)
    assert found.features.share_few_neurons == pytest.approx(20 / 39)
    assert found.features.participation_ratio[2] == 8.0
    expected = np.quantile(np.linspace(0, 1, 40)[fired], 0.75)
    assert found.features.largest_coefficient[3] == pytest.approx(expected, rel=1e-6)
    expected = np.quantile(table["neuron_correlated_values"][fired, 0], 0.05)
    assert found.neuron_correlation[0] == pytest.approx(expected)
    assert found.random == random_spread(512, 100, seed=0)
    shown = str(found)
    assert "39 features over 512 neurons" in shown
    assert f"{found.random.n_above_tenth[2]:7.3g}" in shown
    assert dataclasses.asdict(found)["random"]["share_one_neuron"] == 0


def test_a_table_of_which_nothing_fired():
    table = fake_table.make()
    columns = {name: table[name] for name in table._columns} | {"n_active": np.zeros(10, np.int64)}
    with pytest.raises(ConfigError, match="no feature of this table fired"):
        alignment(FeatureTable(columns, table.info, table.vocabulary, table.run), 16)
