"""Medians with bootstrap intervals."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from sae.chance import generator

COVERAGE = 0.95


class MedianInterval(NamedTuple):
    """Of the values that are defined."""

    n: int
    """How many are."""
    median: float | None
    """None where none is."""
    low: float | None
    """The interval's ends: quantiles 2.5 % and 97.5 % of the medians of resamplings with replacement (percentile bootstrap)."""
    high: float | None


def median_interval(values: Float[ndarray, " value"], n_bootstrap: int, seed: int) -> MedianInterval:
    """Values are taken as independent. NaN is left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return MedianInterval(0, None, None, None)
    chance = generator(seed, "median")
    medians = [np.median(known[chance.integers(0, len(known), len(known))]) for _ in range(n_bootstrap)]
    low, high = np.quantile(medians, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return MedianInterval(len(known), float(np.median(known)), float(low), float(high))
