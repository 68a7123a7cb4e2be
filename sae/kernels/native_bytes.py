"""Products of bytes, compiled: rows and encoders rounded to 7 bits or so, 16 features at a time, on any x86 with AVX2.

`vpmaddubsw` multiplies 32 unsigned bytes with 32 signed ones and adds them in pairs, in 16 bits. Rows and encoders get as many
levels as leave room for the sum of eight such results, by Cauchy-Schwarz, and only then are these widened to 32 bits
(`vpmaddwd` with ones): three times the rate of float32's fused multiply-add, and exact.

A quad is the bytes of four entries, one uint32. Rows lie in groups, [group, quad, row], features in panels, [panel, quad,
feature], both filled up with zeros, and to a multiple of `TOGETHER` quads.
"""

from typing import Any, no_type_check

import numba
import numpy as np

from sae.kernels.compiled import COMPILED
from sae.kernels.instructions import GROUP_ROWS, PANEL, TOGETHER, lowest_bit, screen_bytes

LEVELS = 127
"""Of an encoder, on either side of zero, at most."""
MOST_LEVELS = 255
"""Of an entry of a row, at most: an unsigned byte."""
ENTRIES = 2 * TOGETHER
"""Entries whose products are added in 16 bits: bytes 0 and 1 of `TOGETHER` quads, or bytes 2 and 3."""
ENCODER_NORM = 180
"""What the norm of an encoder's levels in such a place may be. Candidates a row (half of x not zero, L0 20): 140 57, 160 55, 180
54.5, 200 55, 220 57; 48 where two quads were added and all signs the worst."""
ROUNDED = np.sqrt(ENTRIES) / 2 + 0.01
"""What rounding to whole numbers may add to a norm, and float32's own errors."""
ENCODER_ROOM, ROW_ROOM = ENCODER_NORM - ROUNDED, 32_767 / ENCODER_NORM - ROUNDED
ALL_ROOM = 1e9
"""In place of both where products are added in 32 bits at once (`instructions.dot_product_bits`)."""
SMALLEST = np.float32(1e-35)
"""A range below it all goes to level 0, so that no product of a step and a level underflows."""


@numba.njit(**COMPILED)
@no_type_check
def extent(row):
    """The least and the greatest number."""
    least, most = row[0], row[0]
    for d in range(row.shape[0]):
        least, most = min(least, row[d]), max(most, row[d])
    return least, most


@numba.njit(**COMPILED)
@no_type_check
def fullest_norm(shares):
    """The greatest norm of entries whose products are added in 16 bits; at least 1. All a multiple of `TOGETHER` quads."""
    fullest = np.float32(1)
    for block in range(0, shares.shape[0], 4 * TOGETHER):
        low, high = np.float32(0), np.float32(0)
        for d in range(block, block + 4 * TOGETHER, 4):
            low += shares[d] * shares[d] + shares[d + 1] * shares[d + 1]
            high += shares[d + 2] * shares[d + 2] + shares[d + 3] * shares[d + 3]
        fullest = max(fullest, low, high)
    return np.sqrt(fullest)


@numba.njit(**COMPILED)
@no_type_check
def rows_to_bytes(x, first_row, n_rows, room, packed, scale, low, lost, greatest):
    """Round rows from `first_row` on to levels between their least entry and their greatest: x ≈ low + scale · level, with as
    many levels, up to 255, as keep `fullest_norm` of them below `room` (before they are rounded).

    Fills `packed` (uint32 [group, quad, row]) and, by row, the two constants, ‖what was lost‖ and the greatest |x|."""
    width, n_quads = x.shape[1], packed.shape[1]
    shares, levels = np.zeros(4 * n_quads, np.float32), np.zeros(4 * n_quads, np.uint8)
    quads = levels.view(np.uint32)
    for r in range(first_row, first_row + n_rows):
        row = x[r]
        least, most = extent(row)
        reach = most - least
        inverse = np.float32(1) / reach if reach > SMALLEST else np.float32(0)
        for d in range(width):
            shares[d] = (row[d] - least) * inverse
        n_levels = min(np.float32(room) / fullest_norm(shares), np.float32(MOST_LEVELS))
        step = reach / n_levels
        total = np.float32(0)
        for d in range(width):
            level = np.uint8(min(max(shares[d] * n_levels + np.float32(0.5), np.float32(0)), np.float32(255)))
            levels[d] = level
            error = row[d] - (least + step * np.float32(level))
            total += error * error
        group, q = packed[r // GROUP_ROWS], r % GROUP_ROWS
        for i in range(n_quads):
            group[i, q] = quads[i]
        scale[r], low[r], lost[r], greatest[r] = step, least, np.sqrt(total), max(abs(least), abs(most))


@numba.njit(**COMPILED)
@no_type_check
def greatest_of(row):
    """The greatest |w|."""
    most = np.float32(0)
    for d in range(row.shape[0]):
        most = max(most, abs(row[d]))
    return most


@numba.njit(**COMPILED)
@no_type_check
def encoder_levels(row, most, top, centre, levels):
    """Round an encoder, whose greatest |w| is `most`, to `levels` (int8) from −`top` to `top`, at most `LEVELS`: w ≈ ŵ = step ·
    level. Returns step, Σ level, centre · level (float64) and ‖w − ŵ‖²."""
    inverse = top / most if most > SMALLEST else np.float32(0)
    step = most / top
    squares, count, along = np.float32(0), np.float32(0), 0.0
    for d in range(row.shape[0]):
        level = np.rint(min(max(row[d] * inverse, np.float32(-LEVELS)), np.float32(LEVELS)))
        levels[d] = np.int8(level)
        count += level
        along += np.float64(centre[d]) * np.float64(level)
        error = row[d] - step * level
        squares += error * error
    return step, count, along, squares


@numba.njit(**COMPILED)
@no_type_check
def features_to_bytes(W, first_feature, end_feature, room, centre, packed, scale, total, lost, greatest, at_centre):
    """Encoders' levels (`encoder_levels`) into `packed` (uint32 [panel, quad, feature]), from `first_feature` on; and, by
    feature, scale, Σ ŵ, ‖what was lost‖, the greatest |w| and centre · ŵ (float64). As many levels, up to `LEVELS`, as keep
    `fullest_norm` of them below `room` (before they are rounded)."""
    n_quads = packed.shape[1]
    levels, shares = np.zeros(4 * n_quads, np.int8), np.zeros(4 * n_quads, np.float32)
    quads = levels.view(np.uint32)
    for j in range(end_feature - first_feature):
        row = W[first_feature + j]
        most = greatest_of(row)
        inverse = np.float32(1) / most if most > SMALLEST else np.float32(0)
        for d in range(row.shape[0]):
            shares[d] = row[d] * inverse
        top = min(np.float32(room) / fullest_norm(shares), np.float32(LEVELS))
        step, count, along, squares = encoder_levels(row, most, top, centre, levels)
        panel, q = packed[j // PANEL], j % PANEL
        for i in range(n_quads):
            panel[i, q] = quads[i]
        scale[j], total[j], lost[j], greatest[j] = step, step * count, np.sqrt(squares), most
        at_centre[j] = np.float64(step) * along


@numba.njit(**COMPILED)
@no_type_check
def scan_bytes(rows, of_rows, panels, of_panels, first_row, n_rows, feature_0, width, found, ends):
    """As `native_rows.scan_float32`, with the products computed here: the candidates among the `width` features of `panels`, the
    first of which is `feature_0`; all else as in `screen_bytes`. `first_row` is a group's first."""
    n = ends[0]
    n_panels, n_groups = panels.shape[0], -(-n_rows // GROUP_ROWS)
    masks = np.zeros((n_groups * GROUP_ROWS, -(-n_panels // 4)), np.uint64)
    by_panel = masks.view(np.uint16)
    for p in range(n_panels):
        for g in range(n_groups):
            screen_bytes(rows, first_row // GROUP_ROWS + g, panels, p, of_rows, of_panels, by_panel, g * GROUP_ROWS)
    for r in range(n_rows):
        if n + width > found.shape[0]:
            return -1
        for i in range(masks.shape[1]):
            mask = masks[r, i]
            while mask:
                found[n] = feature_0 + i * 4 * PANEL + lowest_bit(mask)
                n += 1
                mask &= mask - np.uint64(1)
        ends[r + 1] = n
    return n


def aligned_zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros from a multiple of 64 bytes on."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    whole = np.zeros(size + 64, np.uint8)
    start = -whole.ctypes.data % 64
    return whole[start : start + size].view(dtype).reshape(shape)
