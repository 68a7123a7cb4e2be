import numpy as np
import pytest

from sae.metrics.intervals import median_interval


def test_the_interval_is_that_of_order_statistics():
    """The median of a resampling of n = 1,000 lies between ranks n/2 ± 1.96 √n/2 in 95 % of them (binomial, in the limit)."""
    found = median_interval(np.random.default_rng(0).permutation(1000).astype(float), 2000, seed=1)
    assert (found.n, found.median) == (1000, 499.5)
    assert found.low == pytest.approx(499.5 - 31, abs=4)
    assert found.high == pytest.approx(499.5 + 31, abs=4)


def test_nan_is_left_out():
    assert median_interval(np.array([np.nan, 2.0, 2.0]), 10, seed=0) == (2, 2.0, 2.0, 2.0)
    assert median_interval(np.array([np.nan]), 10, seed=0) == (0, None, None, None)
