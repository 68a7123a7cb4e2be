"""Products of bytes with rows as lists: of each row only the entries that are not zero, as after a ReLU.

Of a transformer's activations after a ReLU some six in seven are zero, and so are as many of `native_bytes`' products. Here a
row is a list of pairs of neurons, by groups whose products are added in 16 bits, and the encoders lie by pair of neurons, 48
features at a time, so that a pair meets 16 features in one multiplication. A transposed layout has no neighbours to add up in 32
bits, so sums are taken apart by a shift. ms on one core (Zen 3) to screen and evaluate 4,096 x 4,096 at d_mlp 512, `native_bytes`
beside it: 25 and 89 with 3 % of x not zero, 60 and 106 with 14 %, 95 and 115 with 31 %, 109 and 113 with 51 %.
"""

from typing import no_type_check

import numba
import numpy as np

from sae.kernels.compiled import COMPILED
from sae.kernels.instructions import COLUMN, GROUP, lowest_bit, screen_list
from sae.kernels.native_bytes import LEVELS, SMALLEST, encoder_levels, extent, greatest_of

ROOM = 32_767 // LEVELS - GROUP
"""What the levels of a group's pairs may add up to, before each of two a pair is rounded up by at most a half."""
KEYS = 33
"""Pairs are sorted by their sum in so many steps: 100 levels a row, where 9 gave 96 and no order 72 (half of 512 neurons on)."""


@numba.njit(**COMPILED)
@no_type_check
def rows_to_lists(x, first_row, n_rows, order, places, levels, n_groups, scale, low, lost, greatest):
    """Round rows from `first_row` on to levels above their least entry or zero, whichever is less: x ≈ low + scale · level, and
    list the pairs of entries that are not both at level 0, with as many levels as keep the sums of a group's products below 2¹⁵.
    Entries are taken in the `order` given.

    Fills `places`, `levels` and `n_groups` (`screen_list`) and, by row, the constants of `native_bytes.rows_to_bytes`."""
    width = x.shape[1]
    n_pairs = -(-width // 2)
    shares, sums, words = np.zeros(2 * n_pairs, np.float32), np.zeros(n_pairs + 1, np.float32), np.zeros(n_pairs + 1, np.uint32)
    keys, listed, ends = np.empty(n_pairs, np.int32), np.empty(n_pairs, np.uint32), np.empty(KEYS + 1, np.uint32)
    slots, pairs = np.empty(places.shape[1], np.uint32), np.empty(places.shape[1], np.uint32)
    row, dealt = np.empty(width, np.float32), 0
    for r in range(first_row, first_row + n_rows):
        for d in range(width):
            row[d] = x[r, order[d]]
        least, most = extent(row)
        least = min(least, np.float32(0))
        reach = most - least
        inverse = np.float32(1) / reach if reach > SMALLEST else np.float32(0)
        for d in range(width):
            share = (row[d] - least) * inverse
            shares[d] = share if share > 0 else np.float32(0)  # NaN too, of which no index must come; its row is not screened
        n = list_pairs(shares, sums, keys, listed, ends)
        groups = max(1, -(-n // GROUP))
        if groups != dealt:
            deal(slots, groups)
            dealt = groups
        pairs[: groups * GROUP] = n_pairs
        for k in range(n):
            pair = listed[k]
            key = keys[pair]
            pairs[slots[ends[key]]] = pair
            ends[key] += np.uint32(1)
        top = min(np.float32(ROOM) / fullest_group(sums, pairs, groups), np.float32(255))
        step = reach / top
        lost[r] = np.sqrt(pair_levels(row, shares, top, least, step, words))
        for slot in range(groups * GROUP):
            places[r, slot] = pairs[slot] * np.uint32(2 * COLUMN)
            levels[r, slot] = words[pairs[slot]]
        n_groups[r] = groups
        scale[r], low[r], greatest[r] = step, least, max(abs(least), abs(most))


@numba.njit(**COMPILED)
@no_type_check
def list_pairs(shares, sums, keys, listed, ends):
    """Pairs of `shares` whose levels may be above 0, into `listed`; returns how many. And their keys, smaller for greater sums,
    and where each key's pairs begin once they are sorted by it."""
    n = np.uint64(0)
    ends[:] = 0
    for p in range(keys.shape[0]):
        total = shares[2 * p] + shares[2 * p + 1]
        fine = np.int32(min(total * np.float32(255) + np.float32(0.5), np.float32(510)))
        sums[p] = total
        keys[p] = KEYS - 1 - ((fine + 15) >> 4)  # the last one where both levels are 0, with up to 255 of them
    for p in range(keys.shape[0]):
        key = keys[p]
        ends[key + 1] += np.uint32(1)
        listed[n] = p
        n += np.uint64(key < KEYS - 1)
    for key in range(KEYS):
        ends[key + 1] += ends[key]
    return np.int64(n)


@numba.njit(**COMPILED)
@no_type_check
def deal(slots, n_groups):
    """Where sorted pairs go: to the groups in turn, there and back again, so that all groups add up to nearly the same."""
    for k in range(n_groups * GROUP):
        i, g = k // n_groups, k % n_groups
        slots[k] = (g if i % 2 == 0 else n_groups - 1 - g) * GROUP + i


@numba.njit(**COMPILED)
@no_type_check
def fullest_group(sums, pairs, n_groups):
    """The greatest sum of a group, at least 1."""
    most = np.float32(1)
    for g in range(n_groups):
        total = np.float32(0)
        for i in range(GROUP):
            total += sums[pairs[g * GROUP + i]]
        most = max(most, total)
    return most


@numba.njit(**COMPILED)
@no_type_check
def pair_levels(row, shares, top, least, step, words):
    """Each pair's two levels, twice, into `words`; returns the square of what was lost."""
    squares = np.float32(0)
    for d in range(row.shape[0]):
        error = row[d] - (least + step * np.float32(level_of(shares[d], top)))
        squares += error * error
    for p in range(shares.shape[0] // 2):
        word = level_of(shares[2 * p], top) | level_of(shares[2 * p + 1], top) << 8
        words[p] = np.uint32(word | word << 16)
    return squares


@numba.njit(inline="always")
@no_type_check
def level_of(share, top):
    return np.int32(min(share * top + np.float32(0.5), np.float32(255)))


@numba.njit(**COMPILED)
@no_type_check
def features_to_columns(W, first_feature, end_feature, order, centre, columns, scale, total, lost, greatest, at_centre):
    """As `native_bytes.features_to_bytes`, into `columns` (see `screen_list`), whose last pair of neurons is zeros. Entries are
    taken in the `order` given; `centre` is in that order already."""
    width = W.shape[1]
    row, levels = np.empty(width, np.float32), np.empty(width, np.int8)
    for j in range(end_feature - first_feature):
        for d in range(width):
            row[d] = W[first_feature + j, order[d]]
        most = greatest_of(row)
        step, count, along, squares = encoder_levels(row, most, np.float32(LEVELS), centre, levels)
        column, place = columns[j // COLUMN], j % COLUMN // 16 * 32 + j % 8 * 4 + j % 16 // 8 * 2
        for d in range(width):
            column[d // 2, place + d % 2] = levels[d]
        scale[j], total[j], lost[j], greatest[j] = step, step * count, np.sqrt(squares), most
        at_centre[j] = np.float64(step) * along


@numba.njit(**COMPILED)
@no_type_check
def scan_lists(lists, of_rows, columns, of_columns, first_row, n_rows, feature_0, width, found, ends):
    """As `native_bytes.scan_bytes`, of rows in lists: `lists` are `places`, `levels` and `n_groups`."""
    places, levels, n_groups = lists
    n, n_columns = ends[0], columns.shape[0]
    masks = np.empty((n_rows, n_columns), np.uint64)
    for column in range(n_columns):
        for r in range(n_rows):
            row = first_row + r
            masks[r, column] = screen_list(places, levels, row, n_groups[row], columns, column, of_rows, of_columns)
    for r in range(n_rows):
        if n + width > found.shape[0]:
            return -1
        for i in range(n_columns):
            mask = masks[r, i]
            while mask:
                found[n] = feature_0 + i * COLUMN + lowest_bit(mask)
                n += 1
                mask &= mask - np.uint64(1)
        ends[r + 1] = n
    return n
