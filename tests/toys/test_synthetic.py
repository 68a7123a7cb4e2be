"""Every stated property against its closed form, with five standard errors of room where it is a mean over draws."""

import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch

from sae.errors import ConfigError
from sae.toys.synthetic import SyntheticConfig, SyntheticRows, zipf_frequencies

CONFIG = SyntheticConfig(n_features=60, d_mlp=32, mean_l0=4.0, n_groups=5, group_size=4, neuron_fraction=0.25)
N_ROWS = 40_000


def toy(**changes):
    return SyntheticRows(dataclasses.replace(CONFIG, **changes))


@pytest.fixture(scope="module")
def drawn():
    """(source, active [row, feature] as numpy booleans, sample)"""
    source = toy()
    sample = source.sample(N_ROWS, seed=1)
    return source, (sample.activations > 0).numpy(), sample


def within(found, expected, standard_error):
    """All within 5 standard errors."""
    worst = np.max(np.abs(np.asarray(found) - expected) / standard_error)
    assert worst < 5, f"{worst:.1f} standard errors away"


def test_frequencies_by_hand():
    """1, 1/2, 1/3 with a sum of 1.1 would be 0.6, 0.3, 0.2; with no more than 0.5, the 0.6 left go 3 to 2."""
    np.testing.assert_allclose(zipf_frequencies(3, 1.1, 1.0, 0.9), [0.6, 0.3, 0.2])
    np.testing.assert_allclose(zipf_frequencies(3, 1.1, 1.0, 0.5), [0.5, 0.36, 0.24])
    np.testing.assert_allclose(zipf_frequencies(3, 1.1, 0.0, 0.5), [1.1 / 3] * 3)
    np.testing.assert_allclose(zipf_frequencies(3, 1.5, 1.0, 0.5), [0.5] * 3)


def test_frequencies_sum_to_the_mean_l0_below_their_maximum():
    for l0 in (0.01, 4.0, 14.9):
        frequencies = zipf_frequencies(60, l0, 1.3, 0.25)
        assert frequencies.sum() == pytest.approx(l0)
        assert frequencies.max() <= 0.25
        assert (np.diff(frequencies) <= 0).all()
        free = frequencies[frequencies < 0.25 * (1 - 1e-9)]
        rank = np.arange(61 - len(free), 61)
        np.testing.assert_allclose(free * rank**1.3, free[-1] * 60**1.3)


def test_features_are_as_frequent_as_stated(drawn):
    source, active, _ = drawn
    p = source.frequencies.numpy()
    assert p.sum() == pytest.approx(4.0)
    within(active.mean(0), p, np.sqrt(p * (1 - p) / N_ROWS))


def test_group_members_are_active_together_and_others_independently(drawn):
    """P(i and j) = p_i p_j / q in a group that is on with probability q = its largest p / 0.5, else p_i p_j."""
    source, active, _ = drawn
    p, group = source.frequencies.numpy(), source.group.numpy()
    assert np.bincount(group + 1).tolist() == [40, 4, 4, 4, 4, 4]
    expected = np.outer(p, p)
    for number in range(5):
        members = np.flatnonzero(group == number)
        assert (np.diff(members) == 1).all()
        expected[np.ix_(members, members)] /= p[members].max() / 0.5
    np.fill_diagonal(expected, p)
    both = active.T.astype(float) @ active / N_ROWS
    within(both, expected, np.sqrt(expected * (1 - expected) / N_ROWS))


def test_l0_has_the_mean_and_variance_of_its_features(drawn):
    """Independent features give a variance of Σ p (1 - p); the pairs of a group add 2 p_i p_j (1/q - 1)."""
    source, active, _ = drawn
    p = source.frequencies.numpy()
    variance = (p * (1 - p)).sum()
    for number in range(5):
        q = p[source.group.numpy() == number].max() / 0.5
        members = p[source.group.numpy() == number]
        variance += (members.sum() ** 2 - (members**2).sum()) * (1 / q - 1)
    l0 = active.sum(1)
    within(l0.mean(), 4.0, np.sqrt(variance / N_ROWS))
    fourth = ((l0 - l0.mean()) ** 4).mean()
    within(l0.var(), variance, np.sqrt((fourth - variance**2) / N_ROWS))


def test_activations_are_a_least_plus_an_exponential_with_mean_1(drawn):
    value = drawn[2].activations[drawn[2].activations > 0].double()
    within(value.mean(), 1.0, 0.8 / np.sqrt(len(value)))
    within(value.var(), 0.8**2, 0.8**2 * np.sqrt(8 / len(value)))  # an exponential's fourth central moment is 9 variances²
    assert 0.2 <= value.min() < 0.201


def test_rows_are_the_sum_of_directions_and_never_negative():
    source = toy(noise=0.0)
    rows, activations = source.sample(500, seed=3)
    expected = activations.double().numpy() @ source.directions.double().numpy()
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert rows.min() >= 0
    assert (activations.sum(1) == 0).any(), "no row without a feature was among them"


def test_noise_has_the_stated_size_and_is_alike_in_all_neurons():
    source = toy(noise=0.3, nonnegative=False)
    rows, activations = source.sample(N_ROWS, seed=2)
    noise = (rows - activations @ source.directions).double().numpy()
    within(noise.mean(0), 0.0, 0.3 / np.sqrt(N_ROWS))
    covariance = noise.T @ noise / N_ROWS
    within(covariance, 0.09 * np.eye(32), 0.09 * np.sqrt((1 + np.eye(32)) / N_ROWS))
    assert toy(noise=0.3).sample(100).rows.min() == 0.0


def test_without_negative_coefficients_noise_is_cut_off_at_0_alone():
    kept, cut = (toy(noise=0.3, nonnegative=positive) for positive in (False, True))
    kept.directions = cut.directions
    assert torch.equal(kept.sample(200).rows.relu(), cut.sample(200).rows)


@pytest.mark.parametrize("n_neurons", [1, 8, 32])
@pytest.mark.parametrize("nonnegative", [True, False])
def test_directions(n_neurons, nonnegative):
    source = toy(n_features=400, neuron_fraction=n_neurons / 32, nonnegative=nonnegative)
    d = source.directions
    assert d.shape == (400, 32)
    np.testing.assert_allclose(d.double().norm(dim=1), 1.0, atol=1e-6)
    assert ((d != 0).sum(1) == n_neurons).all()
    assert bool((d >= 0).all()) == nonnegative
    cosine = (d @ d.T)[~torch.eye(400, dtype=torch.bool)].mean()
    expected = 2 / np.pi * n_neurons / 32 if nonnegative else 0.0
    if n_neurons != 1:  # there it is 1/32: an absolute normal of one entry is always 1 after division by its norm
        assert cosine == pytest.approx(expected, rel=0.1, abs=0.01)


def test_batches_are_a_function_of_seed_and_number():
    source = toy()
    first, again = (list(islice(toy().batches(50, seed=7), 6)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    entered = list(islice(source.batches(50, seed=7, start=4), 2))
    assert all(torch.equal(a, b) for a, b in zip(first[4:], entered, strict=True))
    assert torch.equal(source.sample(50, seed=7, number=5).rows, first[5])
    distinct = [*first, *islice(source.batches(50, seed=8), 6), *islice(source.batches(50), 6)]
    assert len({batch.numpy().tobytes() for batch in distinct}) == 18
    assert source.d_mlp == first[0].shape[1]


def test_the_seed_of_the_directions_is_theirs_alone():
    a, b, c = toy(), toy(seed=1), toy()
    assert torch.equal(a.directions, c.directions)
    assert not torch.equal(a.directions, b.directions)
    assert torch.equal(a.sample(40).activations, b.sample(40).activations)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_features": 0}, "'n_features' = 0: must be at least 1"),
        ({"noise": -0.1}, "'noise' = -0.1: must be at least 0"),
        ({"noise": float("nan")}, "'noise' = nan"),
        ({"max_frequency": 1.0}, "'max_frequency' = 1.0: must lie between 0 and 1"),
        ({"mean_l0": 15.1}, r"'mean_l0' = 15.1: 60 features of a frequency of at most 0.25 allow .* up to 15.0"),
        ({"mean_l0": 0.0}, "'mean_l0' = 0.0"),
        ({"min_activation": 1.1}, "'min_activation' = 1.1"),
        ({"n_groups": 16}, "16 groups of 4 need 64 features of 60"),
        ({"member_probability": 0.25}, "'member_probability' = 0.25: must be above 'max_frequency'"),
        ({"neuron_fraction": 0.0}, "'neuron_fraction' = 0.0: must be above 0 and at most 1"),
        ({"neuron_fraction": 1.1}, "'neuron_fraction' = 1.1"),
    ],
)
def test_impossible_parameters_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_as_many_groups_as_fit_and_a_best_member_that_is_always_there():
    source = toy(n_features=10, n_groups=2, mean_l0=1.0, member_probability=1.0)
    active = (source.sample(2_000).activations > 0).numpy()
    assert source.group.tolist() == [0] * 4 + [1] * 4 + [-1] * 2
    for first in (0, 4):
        assert active[:, first][active[:, first : first + 4].any(1)].all()
