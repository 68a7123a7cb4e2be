"""The live feed's order, by counting: every row once an epoch, within the memory that was stated, mixed as its docs say."""

from collections import defaultdict

import numpy as np
import pytest

from sae.errors import ConfigError
from sae.live.mixing import FEWEST_PARTS, EpochOrder, Mixing

SHAPES = [
    (600, 10, 160),  # many groups of one unit
    (603, 10, 160),  # the last unit is short
    (1600, 8, 512),  # groups of several units
    (397, 7, 56),  # the smallest buffer
    (64, 10, 10_000),  # all in one group
    (900, 10, 1000),  # all groups reach all blocks
    (5, 10, 40),  # less than a unit
]


def blocks_of(mixing, seed, epoch):
    """Rows of each block of an epoch, by their numbers in the harvest."""
    order, blocks = EpochOrder(mixing, seed, epoch), defaultdict(list)
    for group in range(mixing.n_groups):
        rows = [np.arange(unit * mixing.unit_rows, (unit + 1) * mixing.unit_rows) for unit in order.units(group)]
        rows = np.concatenate(rows)
        rows = rows[rows < mixing.n_rows]
        for share in order.deal(group):
            assert abs(share.block - group) <= mixing.reach
            blocks[share.block].append(rows[share.rows])
    return [order.permute(block, np.concatenate(blocks[block])) for block in range(mixing.n_groups)]


@pytest.mark.parametrize(("n_rows", "unit_rows", "buffer_rows"), SHAPES)
def test_every_row_once_an_epoch_and_each_epoch_in_another_order(n_rows, unit_rows, buffer_rows):
    mixing = Mixing(n_rows, unit_rows, buffer_rows)
    epochs = [np.concatenate(blocks_of(mixing, seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for rows in epochs:
        np.testing.assert_array_equal(np.sort(rows), np.arange(n_rows))
    assert len({rows.tobytes() for rows in epochs}) == 3
    np.testing.assert_array_equal(epochs[0], np.concatenate(blocks_of(mixing, 0, 0)))


@pytest.mark.parametrize(("n_rows", "unit_rows", "buffer_rows"), SHAPES)
def test_any_row_of_an_epoch_is_found(n_rows, unit_rows, buffer_rows):
    mixing = Mixing(n_rows, unit_rows, buffer_rows)
    blocks, order = blocks_of(mixing, 2, 3), EpochOrder(mixing, 2, 3)
    straight = np.concatenate(blocks)
    for row in range(0, n_rows, max(1, n_rows // 50)):
        block, skipped = order.enter(row)
        assert blocks[block][skipped] == straight[row]


@pytest.mark.parametrize(("n_rows", "unit_rows", "buffer_rows"), SHAPES)
def test_memory_is_what_was_stated(n_rows, unit_rows, buffer_rows):
    """Simulated, step by step, over the end of an epoch: the ring never holds more than `held_rows`, and needs nearly all of
    them; with three blocks beside it, it stays within the buffer."""
    mixing = Mixing(n_rows, unit_rows, buffer_rows)
    sizes = [len(block) for epoch in range(2) for block in blocks_of(mixing, 0, epoch)]
    orders = [EpochOrder(mixing, 0, epoch) for epoch in range(3)]
    held, most, coming = 0, 0, 0
    for at, size in enumerate(sizes):
        while coming <= at + mixing.reach:
            epoch, group = divmod(coming, mixing.n_groups)
            held, coming = held + sum(len(share.rows) for share in orders[epoch].deal(group)), coming + 1
        most, held = max(most, held), held - size
    assert mixing.held_rows - mixing.unit_rows <= most <= mixing.held_rows
    assert mixing.held_rows + 3 * max(sizes) <= min(buffer_rows, 4 * mixing.n_units * mixing.unit_rows)


def pairs(rows, context_rows):
    """Pairs of rows of the same context."""
    n = np.bincount(rows // context_rows)
    return int((n * (n - 1) // 2).sum())


def test_rows_of_a_context_meet_as_seldom_as_stated():
    """Counted over the batches of an epoch, and near its ends at most twice as often. Of a batch's n (n - 1) / 2 pairs an ideal
    shuffle of all N rows puts (P - 1) / (N - 1) in one context; here, of two rows of one block, (P - 1) / (R - 1) times the
    chance (R / W - 1) / (R - 1) that they are of one group of R rows, dealt out to W blocks: about as in a shuffle of W R."""
    per_context, n, n_groups, r, w = 8, 256, 128, 512, 49
    mixing = Mixing(n_groups * r, 128, 16_384)
    assert (mixing.group_units * 128, 2 * mixing.reach + 1, mixing.n_groups) == (r, w, n_groups)
    rows = np.concatenate(blocks_of(mixing, 0, 0))
    counted = np.array([pairs(part, per_context) for part in np.split(rows, len(rows) // n)])
    expected = n * (n - 1) / 2 * (per_context - 1) / (r - 1) * (r / w - 1) / (r - 1)
    inner = counted[48:-48]
    assert inner.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / len(inner)))
    assert counted[:48].mean() < 2 * expected
    assert counted[-48:].mean() < 2 * expected


def test_a_buffer_of_all_rows_is_an_ideal_shuffle():
    n_rows, per_context, batch = 8192, 8, 512
    mixing = Mixing(n_rows, 128, 12_288)
    assert mixing.reach == mixing.n_groups - 1
    counted = []
    for epoch in range(4):
        rows = np.concatenate(blocks_of(mixing, 0, epoch))
        counted += [pairs(part, per_context) for part in np.split(rows, n_rows // batch)]
    expected = batch * (batch - 1) / 2 * (per_context - 1) / (n_rows - 1)
    assert np.mean(counted) == pytest.approx(expected, abs=4 * np.sqrt(expected / len(counted)))


def test_a_buffer_too_small_is_refused_with_what_it_takes():
    with pytest.raises(ConfigError, match=f"buffer of {FEWEST_PARTS * 10 - 1} rows .* give it {FEWEST_PARTS * 10} or more"):
        Mixing(1000, 10, FEWEST_PARTS * 10 - 1)
