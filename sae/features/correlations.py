"""Correlations of all features of one dictionary with all of another, from what fired: a block of features at a time, and of
each block only the best is kept, so that no matrix of all pairs need be in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from numpy import ndarray
from torch import Tensor

from sae.accumulate import Moments
from sae.features.firings import Firings
from sae.kernels.native_products import add_products
from sae.kernels.threads import for_blocks
from sae.metrics.matching import one_to_one
from sae.metrics.similarity import pearson
from sae.ties import first_best_column

THREAD_ROWS = 16
"""Features that one thread takes at a time."""
BLOCK_PAIRS = 2**20
"""Whose correlations are computed at once: with up to six float64 copies 48 MiB. Of 1,024 with 16,384 features, CPU s: 1.3 with
all at once, 1.2 with 2**22 pairs, 0.52 with 2**20, 0.47 with 2**19."""
NONE = -1
OUT = -2.0
"""Below every correlation: of pairs of which one never fired."""


class Block(NamedTuple):
    """Correlations of the units `first`, `first + 1`, ... of the first set with all of the second."""

    first: int
    correlation: Float[Tensor, "unit other"]
    """Float64."""


class ByToken(NamedTuple):
    """What fired, by token and then by feature."""

    start: Int[ndarray, " boundary"]
    """Those on token t are `start[t] : start[t + 1]`; [token + 1]."""
    feature: Integer[ndarray, " firing"]
    value: Float[ndarray, " firing"]


def by_token(firings: Firings, n_tokens: int) -> ByToken:
    """The same firings, sorted by token; `n_tokens` is the length of the pass, BOS included."""
    order = np.argsort(firings.token, kind="stable")
    counts = np.bincount(firings.token, minlength=n_tokens)
    return ByToken(np.concatenate([[0], np.cumsum(counts)]), firings.feature[order], firings.value[order])


def moments(firings: Firings, n_counted: int) -> Moments:
    """Of every feature, over the `n_counted` tokens that count, the inactive ones with 0."""
    return Moments(n_counted, *(torch.from_numpy(part) for part in firings.sums()))


def product_rows(
    first: Firings, second: ByToken, begin: int, end: int, n_other: int, *, roll: int = 0
) -> Float[ndarray, "unit other"]:
    """Σ over tokens of value times value, of the features `begin` to `end` of `first` with all `n_other` of the second, float64;
    token t meets token t + `roll` of the second."""
    total = np.zeros((end - begin, n_other))

    def work(k: int) -> None:
        rows = slice(k * THREAD_ROWS, (k + 1) * THREAD_ROWS)
        sparse = (first.start, first.token, first.value, begin + rows.start, second.start, second.feature, second.value)
        add_products(*sparse, roll, total[rows])

    for_blocks(work, -(-(end - begin) // THREAD_ROWS))
    return total


def feature_blocks(
    first: Firings, second: ByToken, first_moments: Moments, second_moments: Moments, *, roll: int = 0
) -> Iterator[Block]:
    """Some features of `first` after the others with all of `second`, exact; token t with token t + `roll` of the second.

    What fired in a feature is gone through once, whatever the size of the blocks."""
    n_other = len(second_moments.total)
    size = max(1, BLOCK_PAIRS // n_other)
    for begin in range(0, first.n_features, size):
        end = min(begin + size, first.n_features)
        total = product_rows(first, second, begin, end, n_other, roll=roll)
        these = Moments(first_moments.n, first_moments.total[begin:end], first_moments.squares[begin:end])
        yield Block(begin, pearson(these, second_moments, torch.from_numpy(total)))


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best partner of every unit, and, where the matrix was kept, its partner in the one-to-one matching."""

    partner: Int[ndarray, " unit"]
    """With the largest correlation, signed; the first of those within 1e-9 of it; -1 for a unit that is out, or where all
    others are."""
    correlation: Float[ndarray, " unit"]
    """With it; NaN where there is none."""
    backward: Float[ndarray, " other"]
    """Of every unit of the second set the largest correlation with any of the first; NaN where there is none."""
    matched: Int[ndarray, " unit"] | None
    """In the matching for the largest sum of correlations; -1 where it has none. None where the matrix was not kept."""
    matched_correlation: Float[ndarray, " unit"] | None
    """In float32's precision. 0 for a unit that is left over, or whose partner would have 0 or less; NaN for one that is out."""


def best_of(blocks: Iterator[Block], alive: Bool[Tensor, " unit"], other: Bool[Tensor, " other"], *, match: bool) -> Best:
    """Of `blocks`, which cover all units in order. Units that are not `alive`, and others that are not `other`, are out.

    `match`: keep all correlations, in float32, and match one to one."""
    partner, values = [], []
    kept = torch.empty(len(alive), len(other)) if match else None
    backward = torch.full((len(other),), OUT, dtype=torch.float64)
    for first, correlation in blocks:
        correlation[:, ~other] = OUT
        correlation[~alive[first : first + len(correlation)]] = OUT
        value = correlation.amax(1)
        values.append(value)
        partner.append(torch.where(value > OUT, first_best_column(correlation), NONE))
        backward = torch.maximum(backward, correlation.amax(0))
        if kept is not None:
            kept[first : first + len(correlation)] = correlation
    matched, matched_correlation = None, None
    if kept is not None:
        found = one_to_one(kept)
        matched, matched_correlation = found.column.numpy(), np.where(alive.numpy(), found.similarity.numpy(), np.nan)
    return Best(
        partner=torch.cat(partner).numpy(),
        correlation=_known(torch.cat(values)),
        backward=_known(backward),
        matched=matched,
        matched_correlation=matched_correlation,
    )


def _known(values: Float[Tensor, " unit"]) -> Float[ndarray, " unit"]:
    return np.where(values.numpy() > OUT, values.numpy(), np.nan)
