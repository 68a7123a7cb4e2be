"""Streaming statistics against numpy's on all rows at once."""

import numpy as np
import pytest
import torch

from sae.errors import NumericsError
from sae.proxies.agreement import FIRST_POSITIVE, N_INTERVALS, SCORE_EDGES, Correlations, Strongest, Tally, levels, score_bins


def rows(seed: int, n: int, n_units: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.relu(torch.randn(n, n_units, generator=generator) - torch.linspace(0, 3, n_units))


def test_pearson_is_numpys():
    x, y = rows(0, 5000, 7), torch.randn(5000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y[:, 1] = (y[:, 1] + x[:, 2] > 1).double()
    y[:, 2] = 1000 * y[:, 2] - 40 * x[:, 0]
    streamed = Correlations(7, 3)
    for start in range(0, 5000, 617):
        streamed.add(x[start : start + 617], y[start : start + 617])
    wanted = np.corrcoef(x.double().numpy().T, y.numpy().T)[:7, 7:].T
    np.testing.assert_allclose(streamed.pearson(), wanted, rtol=1e-10, atol=1e-13)


def test_pearson_keeps_its_digits_where_float32_would_not():
    """100,000 values near 1,000: squares summed in float32 would lose the spread of 1e-3 of the mean."""
    x = 1000 + torch.rand(100_000, 1, generator=torch.Generator().manual_seed(0))
    y = x.double() + torch.rand(100_000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    streamed = Correlations(1, 1)
    for part in range(0, 100_000, 512):
        streamed.add(x[part : part + 512], y[part : part + 512])
    assert streamed.pearson()[0, 0] == pytest.approx(np.corrcoef(x.double()[:, 0], y[:, 0])[0, 1], rel=1e-7)


def test_pearson_of_what_never_varies_is_undefined():
    streamed = Correlations(2, 2)
    streamed.add(torch.tensor([[0.1, 1.0], [0.1, 2.0], [0.1, 4.0]]), torch.tensor([[1.0, 0.3], [0.0, 0.3], [0.0, 0.3]]).double())
    assert np.isnan(streamed.pearson()).tolist() == [[True, False], [True, True]]
    assert np.isnan(Correlations(1, 1).pearson()).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_no_numbers_are_named(bad: float):
    streamed = Correlations(3, 1)
    x = torch.ones(4, 3)
    x[2, 1] = bad
    streamed.add(x, torch.ones(4, 1, dtype=torch.float64))
    with pytest.raises(NumericsError, match="unit 1"):
        streamed.pearson()


@pytest.mark.parametrize("pending", [1, 40, 10**6])
def test_strongest_are_those_of_a_full_sort(pending: int):
    x = (rows(3, 900, 6) * 8).round() / 8  # many ties
    x[:, 5] = 0.0
    x[10:13, 5] = torch.tensor([0.5, 2.0, 0.5])
    streamed = Strongest(6, 20, pending=pending)
    for start in range(0, 900, 101):
        streamed.add(x[start : start + 101])
    values, where = streamed.result()
    for unit in range(6):
        column = x[:, unit].numpy()
        order = np.lexsort((np.arange(900), -column))[:20]
        order = order[column[order] > 0]
        np.testing.assert_array_equal(where[unit, : len(order)], order)
        np.testing.assert_array_equal(values[unit, : len(order)], column[order])
        assert (where[unit, len(order) :] == -1).all()
        assert np.isneginf(values[unit, len(order) :]).all()
    assert where[5, :4].tolist() == [11, 10, 12, -1]


def test_score_bins_are_open_below_and_closed_above():
    assert score_bins(np.array([-np.inf, -10.0, -9.9, 0.0, 1e-9, 100.0, 101.0])).tolist() == [0, 0, 1, 1, 2, 5, 6]
    assert FIRST_POSITIVE == 2
    assert len(SCORE_EDGES) == 6


def test_tally_counts_by_interval_score_and_kind():
    tally = Tally(66.0)  # intervals of width 1
    x = np.array([0.0, 0.5, 1.0, 1.0001, 65.5, 66.0, 66.0001], dtype=np.float32)
    score = np.array([50.0, -20.0, 1.0, 1.0, 5.0, -5.0, 5.0])
    of_kind = np.array([1, 0, 1, 0, 1, 0, 1])
    for part in (slice(0, 3), slice(3, 7)):
        tally.add(x[part], score_bins(score[part]), of_kind[part])
    wanted = np.zeros_like(tally.counts)
    wanted[0, 0, 0] = wanted[0, 2, 1] = wanted[1, 2, 0] = wanted[65, 1, 0] = 1
    wanted[65, 3, 1] = 2
    np.testing.assert_array_equal(tally.counts, wanted)
    assert tally.sums[65, 3, 1] == pytest.approx(65.5 + 66.0001, rel=1e-6)
    assert tally.counts.sum() == 6  # the inactive token is not there


def test_levels_add_up():
    tally = Tally(1.0)
    rng = np.random.default_rng(0)
    x, score, kind = rng.random(3000), rng.normal(0, 20, 3000), rng.integers(0, 2, 3000)
    tally.add(x, score_bins(score), kind)
    fine = levels(tally.counts, 11)
    for i in range(11):
        here = (x > i / 11) & (x <= (i + 1) / 11)
        assert [fine.total[i], fine.proxy[i], fine.kind[i]] == [here.sum(), (here & (score > 0)).sum(), kind[here].sum()]
    whole = levels(tally.sums)
    assert [whole.total[0], whole.proxy[0], whole.kind[0]] == pytest.approx([x.sum(), x[score > 0].sum(), x[kind == 1].sum()])
    assert N_INTERVALS % 11 == 0
