"""In which order a store's rows come: arithmetic alone, so that any batch of any epoch can be named without reading those before.

The store is a global shuffle as it lies. Each epoch permutes its chunks, cuts that order into blocks of some chunks, and permutes
the rows of a block, or runs of a few: rows that lie side by side are no kin, so a run is as good a sample as so many single rows,
and memory gives a run of 4 KiB at twice the rate of rows of 1 KiB. The batches of all epochs are one endless row of such blocks,
cut every n rows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sae.chance import generator


class Block(NamedTuple):
    """Chunks whose rows are mixed."""

    epoch: int
    number: int
    """In its epoch."""


class Part(NamedTuple):
    """Some of a block's rows, in the order in which they come."""

    block: Block
    start: int
    stop: int


class Order:
    """Of the rows of a store of `n_rows`, in chunks of `chunk_rows`, `chunks_mixed` of which make a block; `run_rows` stay
    together."""

    def __init__(self, n_rows: int, chunk_rows: int, chunks_mixed: int, seed: int, run_rows: int = 1):
        self.n_rows, self.chunk_rows, self.chunks_mixed, self.seed = n_rows, chunk_rows, chunks_mixed, seed
        self.run_rows = run_rows
        self.n_chunks = -(-n_rows // chunk_rows)
        self._orders: dict[int, np.ndarray] = {}

    def _order(self, epoch: int) -> np.ndarray:
        """Of the chunks; the last two that were asked for are kept."""
        if epoch not in self._orders:
            for old in list(self._orders)[:-1]:
                del self._orders[old]
            self._orders[epoch] = generator(self.seed, "order of chunks", epoch).permutation(self.n_chunks)
        return self._orders[epoch]

    def rows_of(self, chunk: int) -> int:
        """Of the last chunk there may be fewer."""
        return min(self.chunk_rows, self.n_rows - chunk * self.chunk_rows)

    def chunks(self, block: Block) -> list[int]:
        first = block.number * self.chunks_mixed
        return self._order(block.epoch)[first : first + self.chunks_mixed].tolist()

    def size(self, block: Block) -> int:
        """Rows in it."""
        return sum(map(self.rows_of, self.chunks(block)))

    def rows(self, block: Block, size: int) -> np.ndarray:
        """A permutation of the rows of `chunks(block)`, numbered through in that order, int64. May be called by any thread."""
        rng = generator(self.seed, "order of rows", block.epoch, block.number * self.chunks_mixed)
        runs = rng.permutation(-(-size // self.run_rows))
        rows = (runs[:, None] * self.run_rows + np.arange(self.run_rows)).reshape(-1)
        return rows if len(rows) == size else rows[rows < size]  # the last run may be shorter

    def parts(self, first: int, n_rows: int) -> Iterator[Part]:
        """What the rows `first` ... `first + n_rows - 1` are, counted over all epochs."""
        while n_rows:
            epoch, offset = divmod(first, self.n_rows)
            full, lacking = self.chunk_rows * self.chunks_mixed, self.n_chunks * self.chunk_rows - self.n_rows
            if lacking:  # the block with the last chunk is that much shorter
                short = int(np.flatnonzero(self._order(epoch) == self.n_chunks - 1)[0]) // self.chunks_mixed
                offset += lacking if offset >= (short + 1) * full - lacking else 0
            block = Block(epoch, offset // full)
            start = offset % full
            taken = min(n_rows, self.size(block) - start)
            yield Part(block, start, start + taken)
            first, n_rows = first + taken, n_rows - taken
