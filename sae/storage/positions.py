"""Which positions of which contexts become rows: some of each context, drawn by the seed and the context's number alone."""

from typing import NamedTuple

import numpy as np

from sae.chance import subset_keys, subsets
from sae.errors import ConfigError, CorpusError
from sae.storage.tokens import Contexts, Split

PURPOSE = "positions of a context"
READ_CONTEXTS = 65536


class Chosen(NamedTuple):
    """Of some contexts in turn."""

    positions: np.ndarray
    """Sorted positions, int64 [context, taken]; beyond those that a context has to give, any."""
    taken: np.ndarray | None
    """Which of them become rows, bool [context, taken]; None where all do."""


class Positions:
    """`per_context` positions of each context, or as many as count in it where these are fewer, until there are `n_rows` rows.

    Raises `ConfigError`, `CorpusError` where the split does not give so many."""

    def __init__(self, split: Split, bos: int | None, *, n_rows: int, per_context: int, skip_bos: bool, seed: int):
        self.n_rows, self.per_context, self._seed = n_rows, per_context, seed
        self._context_length, self._skip_bos = split.context_length, skip_bos
        self._first = 1 if (skip_bos and bos is not None) else 0
        n_positions = split.context_length - self._first
        if per_context > n_positions:
            raise ConfigError(f"'positions_per_context' = {per_context}, but a context has {n_positions} positions to take from")
        self._ends: np.ndarray | None = None
        """Rows of each context and all before it [context]; None where each gives `per_context`."""
        if split.masked:
            self._ends = np.cumsum(np.minimum(_n_kept(split, skip_bos=skip_bos), per_context))
        most = split.n_contexts * per_context if self._ends is None else int(self._ends[-1])
        if n_rows > most:
            hint = f"up to {n_positions}" if self._ends is None else "which takes more where more positions count"
            raise CorpusError(
                f"{n_rows} rows asked for, but {split.n_contexts} train contexts at {per_context} positions each "
                f"give {most}; nothing is repeated to fill the gap: lower harvest.n_rows, raise positions_per_context ({hint}), "
                "or give a larger corpus"
            )
        self.n_contexts = int(self.context_of(np.array([n_rows - 1]))[0]) + 1
        """That the rows come from: the first ones of the split."""

    @property
    def even(self) -> bool:
        """Whether every context gives `per_context` rows (the last one may give fewer)."""
        return self._ends is None or self._begin(self.n_contexts - 1) == (self.n_contexts - 1) * self.per_context

    def rows(self, contexts: range) -> range:
        """Of the harvest, in the order of the contexts; the last context may give fewer than it has."""
        return range(self._begin(contexts.start), min(self._begin(contexts.stop), self.n_rows))

    def context_of(self, rows: np.ndarray) -> np.ndarray:
        """The context that each row comes from."""
        if self._ends is None:
            return rows // self.per_context
        return np.searchsorted(self._ends, rows, side="right")

    def choose(self, first: int, batch: Contexts) -> Chosen:
        """Of the contexts of `batch`, which are those from number `first` on."""
        n = len(batch.tokens)
        if self._ends is None:
            span = self._context_length - self._first
            return Chosen(subsets(self._seed, PURPOSE, first, n, self.per_context, span) + self._first, None)
        kept = batch.kept(skip_bos=self._skip_bos)
        keys = subset_keys(self._seed, PURPOSE, first, n, self._context_length)
        # Those that count come first, in an order by chance; then what is taken of them, by position.
        order = np.lexsort((keys, ~kept), axis=1)[:, : self.per_context]
        positions = np.where(np.take_along_axis(kept, order, axis=1), order, self._context_length)
        positions.sort(axis=1)
        taken = positions < self._context_length
        return Chosen(np.where(taken, positions, 0), None if taken.all() else taken)

    def _begin(self, context: int) -> int:
        """The first row of a context."""
        if self._ends is None:
            return context * self.per_context
        return int(self._ends[context - 1]) if context else 0


def _n_kept(split: Split, *, skip_bos: bool) -> np.ndarray:
    """Of each context how many positions may become rows, int64."""
    starts = range(0, split.n_contexts, READ_CONTEXTS)
    return np.concatenate([split[start : start + READ_CONTEXTS].kept(skip_bos=skip_bos).sum(1) for start in starts])
