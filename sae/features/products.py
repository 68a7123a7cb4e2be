"""Σ f x of all features with all neurons, of which no more are in memory than fit."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from sae.features.firings import Firings
from sae.features.passes import Batch
from sae.kernels.native_products import add_row_products, advance
from sae.kernels.threads import for_blocks
from sae.shapes import Rows

N_BLOCKS = 64
"""Of features, among the threads."""


@runtime_checkable
class Products(Protocol):
    """An array [feature, d_mlp] float64, or what is read like one."""

    def __getitem__(self, features: slice, /) -> Any: ...


class NeuronProducts:
    """Those of some features are held; asked for others, it goes through the contexts once more, which need not be encoded."""

    def __init__(self, n_held: int, d_mlp: int, context_length: int):
        self.first, self.total, self.context_length = 0, np.zeros((n_held, d_mlp)), context_length
        self.firings: Firings | None = None
        """All that fired, sorted, when the first pass is over."""
        self.reread: Callable[[], Iterator[tuple[Batch, Rows]]] | None = None
        """Another pass over the same contexts."""

    def add(self, batch: Batch, rows: Rows, unit: Int[ndarray, " entry"], row: Int[ndarray, " entry"], value: ndarray) -> None:
        """What fires in one batch, for the first features; by row."""
        order = np.argsort(unit.astype(np.uint16) if len(self.total) < 2**16 else unit, kind="stable")
        start = np.searchsorted(unit[order], np.arange(len(self.total) + 1))
        self._add(start[:-1], start[1:], row[order], value[order], np.arange(len(rows)), 0, rows)

    def __getitem__(self, features: slice) -> ndarray:
        if not self.first <= features.start <= features.stop <= self.first + len(self.total):
            self._read(features.start)
        return self.total[features.start - self.first : features.stop - self.first]

    def _read(self, first: int) -> None:
        """Those of as many features as fit, from `first` on."""
        assert self.firings is not None, "the first pass is not over"
        assert self.reread is not None
        self.first, self.total[:] = first, 0
        stop = self.firings.start[first + 1 : first + 1 + len(self.total)]
        start = self.firings.start[first : first + len(stop)]
        for batch, rows in self.reread():
            base = batch.first * self.context_length
            kept = batch.keep.flatten().cpu().numpy()
            end = advance(start, stop, self.firings.token, base + len(kept))
            self._add(start, end, self.firings.token, self.firings.value, np.cumsum(kept) - 1, base, rows)
            start = end

    def _add(self, start: ndarray, stop: ndarray, token: ndarray, value: ndarray, row_of: ndarray, base: int, rows: Rows) -> None:
        x, size = rows.cpu().numpy(), -(-len(start) // N_BLOCKS)

        def work(k: int) -> None:
            part = slice(k * size, (k + 1) * size)
            add_row_products(start[part], stop[part], token, value, row_of, base, x, self.total[part])

        for_blocks(work, -(-len(start) // size))


class SummedProducts:
    """Of several shares of the contexts together."""

    def __init__(self, parts: Sequence[Products]):
        self.parts = parts

    def __getitem__(self, features: slice) -> Float[ndarray, "feature d_mlp"]:
        total = np.array(self.parts[0][features])
        for part in self.parts[1:]:
            total += part[features]
        return total
