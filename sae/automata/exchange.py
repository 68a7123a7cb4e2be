"""The causal null of automata: tokens exchanged among others of like frequency, and what is needed of a pair's second feature."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from sae.features.firings import Firings


class Exchange(NamedTuple):
    """The causal null: tokens that occur, from frequent to rare, in groups of neighbours that may stand for one another."""

    token: Int[ndarray, " seen"]
    start: Int[ndarray, " group"]
    """Where each group begins."""
    size: Int[ndarray, " group"]
    permuted: Int[ndarray, " seen"]
    """One permutation: the place whose token stands for each."""

    @classmethod
    def of(cls, count: Int[ndarray, " vocab"], group: int, chance: np.random.Generator) -> "Exchange":
        token = np.argsort(-count, kind="stable")[: int((count > 0).sum())]
        start = np.arange(0, len(token), group)
        size = np.diff(np.append(start, len(token)))
        blocks = [begin + chance.permutation(n) for begin, n in zip(start, size, strict=True)]
        return cls(token, start, size, np.concatenate(blocks) if blocks else token)

    def sums(self, values: Float[ndarray, "row seen"]) -> tuple[Float[ndarray, "row group"], Float[ndarray, "row group"]]:
        """Of each group the sum, and the sum of squared deviations from the group's mean, float64."""
        total, squares = (np.add.reduceat(part, self.start, axis=1, dtype=np.float64) for part in (values, values * values))
        return total, np.maximum(squares - total**2 / self.size, 0)


class Targets(NamedTuple):
    """What the second feature of a pair has by itself."""

    means: Float[ndarray, "feature seen"]
    """Mean activation on the tokens of the exchange."""
    total: Float[ndarray, "feature group"]
    squares: Float[ndarray, "feature group"]
    mean: Float[ndarray, " feature"]
    """Over all tokens that count; at least the smallest number above 0."""

    @classmethod
    def of(cls, means: ndarray, count: ndarray, firings: Firings, exchange: Exchange) -> "Targets":
        seen = means[:, exchange.token]
        mean = firings.sums()[0] / max(int(count.sum()), 1)
        return cls(seen, *exchange.sums(seen), np.maximum(mean, np.finfo(np.float64).tiny))
