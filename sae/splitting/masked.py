"""Masked cosines of the features of two dictionaries of one transformer, and the edges of the splitting graph (Towards
Monosemanticity, "Feature Splitting")."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from sae.features.correlations import BLOCK_PAIRS, ByToken, by_token, product_rows
from sae.features.firings import Firings
from sae.ties import TIE, first_best


@dataclass(frozen=True, kw_only=True)
class Masked:
    """What fires in one dictionary and its squares and presence, as the sums need them."""

    firings: Firings
    squares: Firings
    presence: Firings

    @classmethod
    def of(cls, firings: Firings) -> "Masked":
        wide = firings.value.astype(np.float64)
        return cls(
            firings=replace(firings, value=wide),
            squares=replace(firings, value=wide**2),
            presence=replace(firings, value=np.ones_like(wide)),
        )

    def by_token(self, n_places: int) -> tuple[ByToken, ByToken, ByToken]:
        return by_token(self.firings, n_places), by_token(self.squares, n_places), by_token(self.presence, n_places)


def masked_cosine(
    first: Masked, tokenwise: tuple[ByToken, ByToken, ByToken], norms: Float[ndarray, " feature"], begin: int, end: int, roll: int
) -> Float[ndarray, "unit feature"]:
    """Of the features `begin` to `end` of `first` with all of the second, whose squared `norms` are given; float64. The larger
    of the cosine over the tokens on which the one fires and that over the tokens on which the other does; 0 where they never
    fire together, and never above 1."""
    values, squares, presence = tokenwise
    m = len(norms)
    product = product_rows(first.firings, values, begin, end, m, roll=roll)
    of_second = product_rows(first.presence, squares, begin, end, m, roll=roll)
    of_first = product_rows(first.squares, presence, begin, end, m, roll=roll)
    own = first.firings.sums()[1][begin:end]
    smaller = np.minimum(own[:, None] * of_second, of_first * norms)
    cosine = np.divide(product, np.sqrt(smaller), out=np.zeros_like(product), where=product > 0)
    return np.minimum(cosine, 1.0, out=cosine)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The graph between a dictionary and the next larger one: parents are features of the first, children of the second."""

    first: str
    second: str
    parent: Int[ndarray, " edge"]
    child: Int[ndarray, " edge"]
    cosine: Float[ndarray, " edge"]
    n_edges_shuffled: int
    """Edges where the second's contexts are others."""
    counted: tuple[Int[ndarray, " parent"], Int[ndarray, " other"]]
    """The features of either that fire often enough; all others are left out."""
    best: Int[ndarray, " child"]
    """The parent with the largest masked cosine, of every feature of the second: of those within 1e-9 of it the one
    with the lowest number; -1 for one that is left out."""
    best_cosine: Float[ndarray, " child"]
    """With it; 0 for one that is left out."""
    best_shuffled: Float[ndarray, " child"]
    """The same with other contexts."""

    def children(self, least: float) -> list[list[int]]:
        """Of every feature of the first those of which it is the best parent, by a masked cosine above `least`."""
        found: list[list[int]] = [[] for _ in range(int(self.counted[0].max(initial=-1)) + 1)]
        for child in np.flatnonzero(self.best_cosine > least):
            found[self.best[child]].append(int(child))
        return found


def sizes_of(
    names: tuple[str, str], first: Firings, second: Firings, n_places: int, roll: int, *, least: float, min_active: int
) -> Sizes:
    """`n_places` is the length of the pass, BOS included; in the null place p of the first meets place p + `roll` of the second.
    Exact, a block of pairs at a time."""
    counted = tuple(np.flatnonzero(firings.n_active >= min_active) for firings in (first, second))
    out = [np.setdiff1d(np.arange(firings.n_features), chosen) for firings, chosen in zip((first, second), counted, strict=True)]
    mine, tokenwise, norms = Masked.of(first), Masked.of(second).by_token(n_places), second.sums()[1]
    best, values = np.full(second.n_features, -1), np.zeros((2, second.n_features))
    edges: list[tuple[ndarray, ndarray, ndarray]] = []
    n_shuffled, size = 0, max(1, BLOCK_PAIRS // second.n_features)
    for begin in range(0, first.n_features, size):
        end = min(begin + size, first.n_features)
        true, null = (masked_cosine(mine, tokenwise, norms, begin, end, by) for by in (0, roll))
        for cosine in (true, null):
            cosine[:, out[1]] = 0
            cosine[out[0][(out[0] >= begin) & (out[0] < end)] - begin] = 0
        i, j = np.nonzero(true > least)
        edges.append((i + begin, j, true[i, j]))
        n_shuffled += int((null > least).sum())
        better = true.max(0) > values[0] + np.where(best >= 0, TIE, 0)
        best[better] = first_best(true, axis=0)[better] + begin
        values = np.maximum(values, [true.max(0), null.max(0)])
    parent, child, cosine = (np.concatenate(parts) for parts in zip(*edges, strict=True))
    return Sizes(
        first=names[0],
        second=names[1],
        parent=parent,
        child=child,
        cosine=cosine,
        n_edges_shuffled=n_shuffled,
        counted=(counted[0], counted[1]),
        best=best,
        best_cosine=values[0],
        best_shuffled=values[1],
    )
