"""Ranks with ties and weights, and what is made of them: Spearman correlation, area under the ROC curve."""

import numpy as np
from jaxtyping import Bool, Float, Float64, Shaped
from numpy import ndarray


def midranks(value: Shaped[ndarray, " n"], weight: Shaped[ndarray, " n"] | None = None) -> Float64[ndarray, " n"]:
    """Of each entry the weight of those below it and half the weight of those equal to it, itself included. With weights of 1
    that is the usual average rank less 1/2; an entry of weight k counts as k entries."""
    if len(value) == 0:
        return np.zeros(0)
    order = np.argsort(value, kind="stable")
    ordered = value[order]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    size = np.diff(np.append(first, len(value)))
    tied = size.astype(np.float64) if weight is None else np.add.reduceat(weight[order].astype(np.float64), first)
    ranks = np.empty(len(value))
    ranks[order] = np.repeat(np.cumsum(tied) - tied / 2, size)
    return ranks


def spearman(x: Shaped[ndarray, " n"], y: Shaped[ndarray, " n"], weight: Float[ndarray, " n"] | None = None) -> float:
    """Pearson correlation of the (weighted) ranks. 0 where x or y is constant, so that a constant prediction scores nothing
    (the paper's convention)."""
    if not len(x) or (x == x[0]).all() or (y == y[0]).all():  # by ranks it is so up to rounding, and of two constants that is 1
        return 0.0
    weights = np.ones(len(x)) if weight is None else weight.astype(np.float64)
    total = weights.sum()
    a, b = (midranks(values, weights) - total / 2 for values in (x, y))  # a weighted mean of midranks is half the weight
    joint, spread = (weights * a * b).sum(), (weights * a * a).sum() * (weights * b * b).sum()
    return float(joint / np.sqrt(spread)) if spread > 0 else 0.0  # entries that differ may have no weight


def auc(score: Shaped[ndarray, " n"], label: Bool[ndarray, " n"], weight: Float[ndarray, " n"] | None = None) -> float:
    """Probability that an entry with the label has a larger score than one without, ties counted half; an entry of weight k
    counts as k entries. NaN where all entries have the same label."""
    weights = np.ones(len(score)) if weight is None else weight.astype(np.float64)
    total = float((weights * midranks(score, weights))[label].sum())
    return auc_of_ranks(total, float(weights[label].sum()), float(weights.sum()))


def auc_of_ranks(total: float, n_positive: int | float, n: int | float) -> float:
    """`auc` from the sum of the positive entries' midranks."""
    pairs = n_positive * (n - n_positive)
    return (total - n_positive**2 / 2) / pairs if pairs else float("nan")


def balanced_accuracy(n_hit: int | float, n_predicted: int | float, n_positive: int | float, n: int | float) -> float:
    """Mean of the fraction of the positive entries that are predicted, and of the others that are not; `n_hit` are predicted
    and positive. NaN where all entries have the same label."""
    if n_positive == 0 or n_positive == n:
        return float("nan")
    return (n_hit / n_positive + 1 - (n_predicted - n_hit) / (n - n_positive)) / 2
