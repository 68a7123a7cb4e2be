"""Where to draw a line such that few of what lies above it are there by chance."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def decoy_threshold(scores: Float[ndarray, " score"], decoys: Float[ndarray, " decoy"], rate: float) -> float:
    """The smallest of `scores` s at which (1 + decoys of at least s) / (scores of at least s) is at most `rate`; infinity
    where none is.

    `decoys` are the same scores where there is nothing to find, as many were looked at: then this is an estimate from above of
    the share of chance among what is kept (target and decoy; with the 1 of Barber and Candès 2015 it is a bound in
    expectation)."""
    ordered, against = np.sort(scores), np.sort(decoys)
    above = len(ordered) - np.searchsorted(ordered, ordered, side="left")
    by_chance = 1 + len(against) - np.searchsorted(against, ordered, side="left")
    fair = np.flatnonzero(by_chance <= rate * above)
    return float(ordered[fair[0]]) if len(fair) else float("inf")
