import math

import numpy as np
import pytest
import torch

from sae.metrics.density import Active, Firing, active_entries, log_edges, log_histogram, resolves, summarize


def firing(n_active, n_rows):
    """As counted, with nothing known of rows."""
    result = Firing.zeros(len(n_active))
    result.n_rows, result.n_active = n_rows, torch.tensor(n_active)
    return result


def test_active_entries_by_hand():
    active = active_entries(torch.tensor([[0.0, 2.0, -1.0], [3.0, 0.0, 0.5]]))
    assert active.row.tolist() == [0, 1, 1]
    assert active.unit.tolist() == [1, 0, 2]
    assert active.value.tolist() == [2.0, 3.0, 0.5]


def test_two_rows_two_units_by_hand():
    counted = Firing.zeros(2)
    counted.add(active_entries(torch.tensor([[1.0, 0.0], [2.0, 3.0]])), 2)
    assert counted.density.tolist() == [1.0, 0.5]
    assert counted.l0 == 1.5
    assert counted.l0_rows.tolist() == [0, 1, 1]


def test_parts_merge_to_the_whole_and_agree_with_numpy():
    dense = torch.randn(60, 7, generator=torch.Generator().manual_seed(0)) - 1
    dense[5] = -1.0
    parts = []
    for rows in (dense[:13], dense[13:]):
        parts.append(Firing.zeros(7))
        parts[-1].add(active_entries(rows), len(rows))
    merged = parts[0].merge(parts[1])
    on = dense.numpy() > 0
    np.testing.assert_array_equal(merged.n_active, on.sum(0))
    np.testing.assert_array_equal(merged.l0_rows, np.bincount(on.sum(1), minlength=8))
    assert merged.l0 == pytest.approx(on.sum(1).mean())


def test_no_active_entry_still_counts_rows():
    counted = Firing.zeros(3)
    none = torch.zeros(0, dtype=torch.int64)
    counted.add(Active(none, none, torch.zeros(0)), 4)
    assert counted.n_rows == 4
    assert counted.l0_rows.tolist() == [4, 0, 0, 0]


def test_dead_ultralow_dense_by_hand():
    """Over a million tokens: never, 9 and 10 times (below and at 1e-5), 10,000 and 10,001 times (at and above 1 %)."""
    found = summarize(firing([0, 9, 10, 10_000, 10_001], 1_000_000), 1e-5)
    assert (found.n_dead, found.n_alive, found.n_ultralow, found.n_dense) == (1, 4, 1, 1)
    assert found.median_density == pytest.approx((10 + 10_000) / 2 / 1e6)
    assert found.l0 == pytest.approx(20_020 / 1e6)


def test_ultralow_is_not_counted_where_too_few_tokens_were_read():
    assert summarize(firing([1], 299_999), 1e-5).n_ultralow is None
    assert summarize(firing([1], 300_000), 1e-5).n_ultralow == 1
    assert summarize(firing([1], 300_000), 1e-5).n_ultralow_paper is None
    assert summarize(firing([2, 3, 4], 3_000_000), 1e-5).n_ultralow_paper == 1


def test_the_bound_leaves_a_unit_of_that_density_silent_one_time_in_twenty():
    density, n_tokens = 1e-3, 3_000
    assert resolves(n_tokens, density)
    assert not resolves(n_tokens - 1, density)
    assert (1 - density) ** n_tokens == pytest.approx(math.exp(-3), rel=0.01)


def test_all_dead():
    found = summarize(firing([0, 0], 10), 1e-5)
    assert (found.n_dead, found.median_density) == (2, None)


def test_log_histogram_by_hand():
    edges = log_edges(1000)
    np.testing.assert_allclose(edges, np.arange(-15, 1) / 5)
    counts = log_histogram(firing([0, 1, 2, 100, 1000], 1000), edges)
    assert counts.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]  # -3, -2.7, -1, 0


@pytest.mark.parametrize(("n_tokens", "low"), [(1, -1), (10, -1), (11, -2), (1_000_000, -6), (750_000, -6), (0, -1)])
def test_the_histogram_reaches_down_to_a_single_firing(n_tokens, low):
    assert log_edges(n_tokens)[0] == low
