"""How well units agree with a hypothesis over the tokens of some contexts, with intervals by resampling contexts.

Tokens of one context are no independent draws (a document is Arabic or it is not), contexts nearly are: so whole contexts are
resampled, and all units with the same draws, so that their difference has an interval too.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from numpy import ndarray

from sae.chance import generator
from sae.claims.figures import Interval

QUANTILES = (0.025, 0.975)
FEWEST = 6
"""Contexts, or texts, without which nothing is said to be above anything: of fewer all lie on one side by chance in more than
2.5 % of cases (of 5 in 0.5^5 = 3.1 %), though every resampling of them says the same."""
STATISTICS = ("pearson", "specificity", "specificity of strong", "share of tokens", "sensitivity", "density")
SUMS = ("n", "x", "xx", "y", "yy", "xy", "true", "active", "mass", "mass_true", "strong", "strong_true", "both")


class Tokens(NamedTuple):
    """What a hypothesis says of each token that counts."""

    context: Int[ndarray, " token"]
    """That it is in."""
    score: Float64[ndarray, " token"]
    """As the hypothesis reads it: what activations are correlated with."""
    true: Bool[ndarray, " token"]
    """Whether the log-likelihood ratio is above 0."""


def sums_by_context(tokens: Tokens, activation: Float[ndarray, " token"], n_contexts: int) -> Float64[ndarray, "context sum"]:
    """`SUMS` of a unit over each context: all that the statistics need. Strong is above half the largest activation; masses are
    of activations above 0, as shares of a sum in which a neuron's negative ones (GELU) cancel others would be none."""
    x, y, true = activation.astype(np.float64), tokens.score, tokens.true
    active, strong, above = x > 0, x > x.max(initial=0) / 2, np.maximum(x, 0)
    columns = (
        np.ones_like(x),
        x,
        x * x,
        y,
        y * y,
        x * y,
        true,
        active,
        above,
        above * true,
        strong,
        strong & true,
        active & true,
    )
    return np.stack([np.bincount(tokens.context, column, n_contexts) for column in columns], axis=1)


def statistics(sums: Float64[ndarray, "... sum"]) -> Float64[ndarray, "... statistic"]:
    """`STATISTICS` from sums over any number of tokens; NaN where one is undefined.

    specificity: of the unit's activation, the share on true tokens; of strong: of the tokens on which it is above half its
    largest activation, the share that is true; sensitivity: of the true tokens, the share on which it is above 0."""
    s = dict(zip(SUMS, np.moveaxis(sums, -1, 0), strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        xx, yy = s["xx"] - s["x"] ** 2 / s["n"], s["yy"] - s["y"] ** 2 / s["n"]
        pearson = (s["xy"] - s["x"] * s["y"] / s["n"]) / np.sqrt(np.maximum(xx, 0) * np.maximum(yy, 0))
        found = (
            np.where(np.isfinite(pearson), pearson, np.nan),
            s["mass_true"] / s["mass"],
            s["strong_true"] / s["strong"],
            s["true"] / s["n"],
            s["both"] / s["true"],
            s["active"] / s["n"],
        )
    return np.stack(found, axis=-1)


class Agreement(NamedTuple):
    """Of some units with one hypothesis."""

    found: Float64[ndarray, "unit statistic"]
    resampled: Float64[ndarray, "draw unit statistic"]
    n_contexts: int

    def interval(self, unit: int, statistic: str) -> Interval:
        """Of one unit."""
        i = STATISTICS.index(statistic)
        return interval(self.found[unit, i], self.resampled[:, unit, i])

    def above(self, unit: int, other: int, statistic: str) -> bool | None:
        """Whether it is larger for `unit` than for `other` in 97.5 % of the resamplings; None where it is undefined, or
        there are fewer than `FEWEST` contexts."""
        i = STATISTICS.index(statistic)
        difference = self.resampled[:, unit, i] - self.resampled[:, other, i]
        if self.n_contexts < FEWEST or not np.isfinite(self.found[[unit, other], i]).all():
            return None
        return bool(np.nanquantile(difference, QUANTILES[0]) > 0)


def agreement(units: list[Float64[ndarray, "context sum"]], n_bootstrap: int, seed: int) -> Agreement:
    """From `sums_by_context` of each unit."""
    sums = np.stack(units, axis=1)
    n = len(sums)
    chance, drawn = generator(seed, "contexts"), []
    for _ in range(n_bootstrap):
        weights = np.bincount(chance.integers(0, n, n), minlength=n).astype(np.float64)
        drawn.append(np.tensordot(weights, sums, 1))
    return Agreement(statistics(sums.sum(0)), statistics(np.stack(drawn)), n)


def interval(value: float, resampled: Float64[ndarray, " draw"]) -> Interval:
    """By quantiles of the resamplings that are defined."""
    if not np.isfinite(value):
        return Interval(None)
    low, high = np.nanquantile(resampled, QUANTILES)
    return Interval(float(value), float(low), float(high))
