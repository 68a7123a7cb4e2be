"""The best among equals: rounding must not choose. Two values within 1e-9 of the best are equal, and the lowest index is taken.

Cosines and correlations are summed in an order that differs by processor, and of two that are the same number one comes out
larger by a unit in the last place: the index of a plain argmax would be the processor's.
"""

import numpy as np
import torch
from jaxtyping import Float64, Int
from numpy import ndarray
from torch import Tensor

TIE = 1e-9
"""Far above what summing in another order does to a cosine in float64, far below any difference that means something."""


def first_best(values: ndarray, axis: int = -1) -> ndarray:
    """The lowest index along `axis` whose value is within `TIE` of the largest. NaN is never it, unless all are."""
    known = np.where(np.isnan(values), -np.inf, values)
    index: ndarray = (known >= known.max(axis, keepdims=True) - TIE).argmax(axis)
    return index


def in_order(values: ndarray) -> list[int]:
    """Indices, the largest value first; of those within `TIE` of the first among them the lowest index first."""
    groups: list[list[int]] = []
    for i in np.argsort(-values, kind="stable").tolist():
        if not groups or values[i] < values[groups[-1][0]] - TIE:
            groups.append([])
        groups[-1].append(i)
    return [i for group in groups for i in sorted(group)]


def first_best_column(values: Float64[Tensor, "row column"]) -> Int[Tensor, " row"]:
    """The same for the rows of a tensor, on its device."""
    columns = torch.arange(values.shape[1], device=values.device)
    is_best = values >= values.amax(1, keepdim=True) - TIE
    return torch.where(is_best, columns, values.shape[1]).amin(1)
