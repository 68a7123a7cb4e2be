"""In which order the rows of a live feed come: arithmetic alone, no row is looked at, so a feed can be entered anywhere.

An epoch's *units*, the batches of the forward pass, come in a keyed-permuted order; some consecutive ones make a *group*. The
rows of group g are permuted and dealt out evenly to the *blocks* g − reach ... g + reach (those that the epoch has); block b is
complete when group b + reach has been dealt, and is permuted itself. There are as many blocks as groups.

One block that is filled, permuted and used up while the next is filled would mix half as many rows as are in memory; here a
group's rows leave bit by bit and 1.5 times as many are mixed. The next epoch's groups come in while this one's last blocks go
out.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sae.chance import generator
from sae.errors import ConfigError
from sae.storage.permutation import Permutation

PARTS = 32
"""Groups in a buffer, or so. More spread a group's rows over more blocks (1.59 buffers at 32, 1.66 at 64) of fewer rows each."""
FEWEST_PARTS = 8


class Dealt(NamedTuple):
    """What of a group goes to one block."""

    block: int
    rows: np.ndarray
    """Which of the group's rows, counted through its units in their order, int64."""


class Mixing:
    """Of `n_rows` rows in units of `unit_rows` (the last one may be shorter), with `buffer_rows` rows in memory at the most.

    Raises `ConfigError` where the buffer holds fewer than `FEWEST_PARTS` units."""

    def __init__(self, n_rows: int, unit_rows: int, buffer_rows: int):
        self.n_rows, self.unit_rows = n_rows, min(unit_rows, n_rows)
        self.n_units = -(-n_rows // unit_rows)
        if buffer_rows < FEWEST_PARTS * self.unit_rows:
            raise ConfigError(
                f"a buffer of {buffer_rows} rows does not hold {FEWEST_PARTS} batches of the forward pass, {self.unit_rows} "
                f"rows each: give it {FEWEST_PARTS * self.unit_rows} or more, or lower batch_contexts or positions_per_context"
            )
        self.group_units = max(1, buffer_rows // (PARTS * self.unit_rows))
        self.n_groups = -(-self.n_units // self.group_units)
        n_parts = buffer_rows / (self.group_units * self.unit_rows)
        # The ring holds at most 1.1 (reach + 1) groups (`held_rows`), and three blocks of at most 1.2 groups lie outside it.
        self.reach = min(self.n_groups - 1, int((n_parts - 3.6) / 1.1) - 1)

    def units(self, group: int) -> range:
        """The places, in the epoch's order, of a group's units."""
        return range(group * self.group_units, min((group + 1) * self.group_units, self.n_units))

    def window(self, group: int) -> range:
        """The blocks that a group is dealt out to."""
        return range(max(0, group - self.reach), min(self.n_groups, group + self.reach + 1))

    def sizes(self, group_rows: np.ndarray) -> np.ndarray:
        """Rows of each block, int64 [n_groups], where the groups have `group_rows`."""
        groups = np.arange(self.n_groups)
        first = np.maximum(0, groups - self.reach)
        n_blocks = np.minimum(self.n_groups, groups + self.reach + 1) - first
        sizes = np.zeros(self.n_groups, np.int64)
        for i in range(min(2 * self.reach + 1, self.n_groups)):
            inside = i < n_blocks
            n = _cut(i + 1, group_rows[inside], n_blocks[inside]) - _cut(i, group_rows[inside], n_blocks[inside])
            np.add.at(sizes, first[inside] + i, n)
        return sizes

    @property
    def held_rows(self) -> int:
        """The most rows that have been dealt to blocks which are still to come: what the ring must hold."""
        whole = self.group_units * self.unit_rows
        rows = np.array([len(self.units(group)) * self.unit_rows for group in range(self.n_groups)])
        dealt = np.concatenate([rows, np.full(self.reach, whole)]).cumsum()[self.reach :]
        gone = self.sizes(rows).cumsum()
        return int((dealt - np.concatenate([[0], gone[:-1]])).max())


class EpochOrder:
    """The order of one epoch, by `seed` and the epoch's number alone."""

    def __init__(self, mixing: Mixing, seed: int, epoch: int):
        self.mixing, self._seed, self._epoch = mixing, seed, epoch
        self._place = Permutation(mixing.n_units, int(generator(seed, "order of forward passes", epoch).integers(2**63)))
        n_missing = mixing.n_units * mixing.unit_rows - mixing.n_rows
        whole = np.array([len(mixing.units(group)) * mixing.unit_rows for group in range(mixing.n_groups)])
        short = int(self._place(np.array([mixing.n_units - 1]))[0])
        whole[short // mixing.group_units] -= n_missing
        self._group_rows = whole
        self._ends = mixing.sizes(whole).cumsum()

    def enter(self, row: int) -> tuple[int, int]:
        """The block that row `row` of the epoch is in, and how many of the block come before it."""
        block = int(np.searchsorted(self._ends, row, side="right"))
        return block, row - (int(self._ends[block - 1]) if block else 0)

    def units(self, group: int) -> np.ndarray:
        """Numbers of the units that make up a group, int64."""
        return self._place.inverse(np.array(self.mixing.units(group)))

    def deal(self, group: int) -> Iterator[Dealt]:
        """To each block of the group's window its rows."""
        blocks, n = self.mixing.window(group), int(self._group_rows[group])
        order = self._chance("rows of a group", group).permutation(n)
        for i, block in enumerate(blocks):
            yield Dealt(block, order[_cut(i, n, len(blocks)) : _cut(i + 1, n, len(blocks))])

    def permute(self, block: int, rows: np.ndarray) -> np.ndarray:
        """What has been dealt to a block, in the order of its groups, in the order that it is used in."""
        return rows[self._chance("rows of a block", block).permutation(len(rows))]

    def _chance(self, purpose: str, index: int) -> np.random.Generator:
        return generator(self._seed, purpose, self._epoch, index)


def _cut(i: int, n_rows, n_blocks):  # type: ignore[no-untyped-def]  # numbers, or arrays of them
    """Where the part of the i-th of `n_blocks` blocks begins in `n_rows` rows: the ceiling of i · n_rows / n_blocks."""
    return -(-i * n_rows // n_blocks)
