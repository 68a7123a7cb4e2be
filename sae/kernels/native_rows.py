"""The sparse step's work by rows, compiled: screen, exact activations, decoding, and the gradients that a row needs.

Every function works on one block of rows and is called from several threads at once without the interpreter's lock. Sums run
in an order that the block fixes, so results do not depend on the number of threads. NaN keeps its meaning (`compiled.FAST_MATH`).

`no_type_check` keeps the test suite's type checker, which wraps every function of the package, from what numba compiles: it
would fail on the wrapper.
"""

from typing import no_type_check

import numba
import numpy as np

from sae.kernels.compiled import COMPILED
from sae.kernels.instructions import prefetch_line

AHEAD = 2
"""Rows to ask for before they are needed."""
LINE = 16
"""Floats in a cache line."""
AT_ONCE = 32
"""Entries compared together; only where one of them may be active are they looked at one by one."""


@numba.njit(**COMPILED)
@no_type_check
def prefetch_row(array, row):
    """Rows of a matrix that are read in no order would each be waited for."""
    for column in range(0, array.shape[1], LINE):
        prefetch_line(array, row, column)


@numba.njit(**COMPILED)
@no_type_check
def scan_bfloat16(tile, threshold, band, relative, norms, first_row, feature_0, found, ends):
    """Append to `found` the features of `tile` (uint16 [row, feature], the bits of bfloat16 products) that may be active: those
    with product + relative |product| + band ‖x‖ > threshold. `ends[r + 1]` is the count after row r. Returns −1 where `found` may
    be too short (nothing is lost: call again with a longer one)."""
    n_rows, width = tile.shape
    n = ends[0]
    margin = np.empty(AT_ONCE, np.float32)
    for r in range(n_rows):
        if n + width > found.shape[0]:
            return -1
        norm = norms[first_row + r]
        row = tile[r]
        for start in range(0, width - width % AT_ONCE, AT_ONCE):
            best = np.float32(-1)
            for q in range(AT_ONCE):
                j = start + q
                product = np.uint32(np.uint32(row[j]) << np.uint32(16)).view(np.float32)
                margin[q] = product - threshold[j] + norm * band[j] + relative * abs(product)
                best = max(best, margin[q])
            if best > 0:
                for q in range(AT_ONCE):
                    if margin[q] > 0:
                        found[n] = feature_0 + start + q
                        n += 1
        for j in range(width - width % AT_ONCE, width):
            product = np.uint32(np.uint32(row[j]) << np.uint32(16)).view(np.float32)
            if product - threshold[j] + norm * band[j] + relative * abs(product) > 0:
                found[n] = feature_0 + j
                n += 1
        ends[r + 1] = n
    return n


@numba.njit(**COMPILED)
@no_type_check
def scan_row(row, threshold, band, norm, feature_0, found, n):
    """The features of one row of float32 products with product + band ‖x‖ > threshold, appended to `found` from entry `n` on."""
    width = row.shape[0]
    for start in range(0, width - width % AT_ONCE, AT_ONCE):
        best = np.float32(-1)
        for q in range(AT_ONCE):
            j = start + q
            best = max(best, row[j] - threshold[j] + norm * band[j])
        if best > 0:
            for q in range(AT_ONCE):
                j = start + q
                if row[j] - threshold[j] + norm * band[j] > 0:
                    found[n] = feature_0 + j
                    n += 1
    for j in range(width - width % AT_ONCE, width):
        if row[j] - threshold[j] + norm * band[j] > 0:
            found[n] = feature_0 + j
            n += 1
    return n


@numba.njit(**COMPILED)
@no_type_check
def scan_float32(tile, threshold, band, norms, first_row, feature_0, found, ends):
    """As `scan_bfloat16`, of float32 products."""
    n = ends[0]
    for r in range(tile.shape[0]):
        if n + tile.shape[1] > found.shape[0]:
            return -1
        n = scan_row(tile[r], threshold, band, norms[first_row + r], feature_0, found, n)
        ends[r + 1] = n
    return n


@numba.njit(**COMPILED)
@no_type_check
def list_nonzero(x, first_row, n_rows, places, n_nonzero):
    """For each row of `x`, the positions of its nonzero entries into `places` [row, d_mlp] and their number."""
    for r in range(first_row, first_row + n_rows):
        n = 0
        for d in range(x.shape[1]):
            if x[r, d] != 0:
                places[r, n] = d
                n += 1
        n_nonzero[r] = n


@numba.njit(**COMPILED)
@no_type_check
def scan_sparse_rows(x, places, n_nonzero, W_enc_T, threshold, band, norms, first_row, n_rows, feature_0, found, ends):
    """As `scan_float32`, with the products x W_encᵀ computed here from the nonzero entries of x alone.

    `W_enc_T` is [d_mlp, feature], of this tile's features. Four nonzero entries are added in one pass over the tile, so that a
    partial sum is loaded and stored once for four multiplications."""
    width = W_enc_T.shape[1]
    n = ends[0]
    product = np.empty(width, np.float32)
    for r in range(n_rows):
        if n + width > found.shape[0]:
            return -1
        row, place, count = x[first_row + r], places[first_row + r], n_nonzero[first_row + r]
        product[:] = 0
        for k in range(0, count - count % 4, 4):
            a, b, c, d = place[k], place[k + 1], place[k + 2], place[k + 3]
            x_a, x_b, x_c, x_d = row[a], row[b], row[c], row[d]
            w_a, w_b, w_c, w_d = W_enc_T[a], W_enc_T[b], W_enc_T[c], W_enc_T[d]
            for j in range(width):
                product[j] += x_a * w_a[j] + x_b * w_b[j] + x_c * w_c[j] + x_d * w_d[j]
        for k in range(count - count % 4, count):
            x_a = row[place[k]]
            w_a = W_enc_T[place[k]]
            for j in range(width):
                product[j] += x_a * w_a[j]
        n = scan_row(product, threshold, band, norms[first_row + r], feature_0, found, n)
        ends[r + 1] = n
    return n


@numba.njit(**COMPILED)
@no_type_check
def by_feature(found, ends, until, features, rows):
    """Put a block's candidates into the order of (feature, row): each one's row into `rows`, the features there are into
    `features`, and into `until` [feature] where those of each end (0 where there are none). Returns how many features there
    are."""
    n_tiles, n_rows = ends.shape[0], ends.shape[1] - 1
    until[:] = 0
    for k in range(ends[n_tiles - 1, n_rows]):
        until[found[k]] += 1
    n, position = 0, 0
    for j in range(until.shape[0]):
        count = until[j]
        if count > 0:
            until[j] = position
            features[n] = j
            n += 1
        position += count
    for r in range(n_rows):
        for tile in range(n_tiles):
            for k in range(ends[tile, r], ends[tile, r + 1]):
                j = found[k]
                rows[until[j]] = r
                until[j] += 1
    return n


@numba.njit(**COMPILED)
@no_type_check
def keep_active(seen, W_enc, b_enc, first_row, found, ends, fired, features, stops, rows, f):
    """Evaluate a block's candidates in float32 and keep those with f > 0, by feature: so that an encoder is read from memory once
    a block, and the block's rows stay in the second-level cache (4,096 rows with 62 candidates each: 28 ms row by row, 22 so).

    Fills `features` with the features that fire, in order, `stops` with where each one's entries end in `rows` (counted from
    `first_row`) and `f`, and `fired` [feature] with their number. Returns how many features fire."""
    n_found = by_feature(found, ends, fired, features, rows)
    start, kept, n = 0, 0, 0
    for i in range(n_found):
        j = features[i]
        if i + AHEAD < n_found:
            prefetch_row(W_enc, features[i + AHEAD])
        w, before = W_enc[j], kept
        for k in range(start, fired[j]):
            x = seen[first_row + rows[k]]
            total = np.float32(0)
            for d in range(x.shape[0]):
                total += x[d] * w[d]
            total += b_enc[j]
            if total > 0:
                rows[kept] = rows[k]
                f[kept] = total
                kept += 1
        start = fired[j]
        fired[j] = kept - before
        if kept > before:
            features[n] = j
            stops[n] = kept
            n += 1
    return n


@numba.njit(**COMPILED)
@no_type_check
def decode_rows(x, W_dec, b_dec, cost, l1_scale, scale, first_row, n_rows, features, stops, rows, f, g, d_out, g_sum):
    """From a block's active entries (`keep_active`): g = scale (x̂ − x) [row, d_mlp], d = g W_decᵀ + l1_scale · cost, the sum of g
    over the block's rows; returns Σ (x̂ − x)², Σ cost · f, Σ f² and Σ d² over the block, float64. Each row's features are added
    in their order."""
    width, n = x.shape[1], features.shape[0]
    squared_error, l1, f_squared, d_squared = 0.0, 0.0, 0.0, 0.0
    for r in range(n_rows):
        row, out = x[first_row + r], g[first_row + r]
        for d in range(width):
            out[d] = b_dec[d] - row[d]
    start = 0
    for i in range(n):
        if i + AHEAD < n:
            prefetch_row(W_dec, features[i + AHEAD])
        w, cost_j = W_dec[features[i]], cost[features[i]]
        for k in range(start, stops[i]):
            out, value = g[first_row + rows[k]], f[k]
            l1 += cost_j * value
            f_squared += np.float64(value) * value
            for d in range(width):
                out[d] += value * w[d]
        start = stops[i]
    g_sum[:] = 0
    for r in range(n_rows):
        out, total = g[first_row + r], np.float32(0)
        for d in range(width):
            error = out[d]
            total += error * error
            out[d] = scale * error
            g_sum[d] += scale * error
        squared_error += np.float64(total)
    start = 0
    for i in range(n):
        if i + AHEAD < n:
            prefetch_row(W_dec, features[i + AHEAD])
        w, base = W_dec[features[i]], l1_scale * cost[features[i]]
        for k in range(start, stops[i]):
            out, slope = g[first_row + rows[k]], base
            for d in range(width):
                slope += out[d] * w[d]
            d_out[k] = slope
            d_squared += np.float64(slope) * slope
        start = stops[i]
    return squared_error, l1, f_squared, d_squared


@numba.njit(**COMPILED)
@no_type_check
def begin_features(fired, starts):
    """From the firings of each block and feature: where each feature's entries begin in the lists by feature, and the end of all,
    into `starts` [feature + 1]; `fired` [block, feature] becomes where each block's entries of it begin."""
    starts[0] = 0
    for j in range(fired.shape[1]):
        position = starts[j]
        for i in range(fired.shape[0]):
            n = fired[i, j]
            fired[i, j] = position
            position += n
        starts[j + 1] = position


@numba.njit(**COMPILED)
@no_type_check
def place_by_feature(features, stops, rows, f, d, first_row, position, all_rows, all_f, all_d):
    """Copy a block's entries to their places in the lists by feature; `position` [feature] is where each feature's begin."""
    start = 0
    for i in range(features.shape[0]):
        to = position[features[i]] - start
        for k in range(start, stops[i]):
            all_rows[to + k] = first_row + rows[k]
            all_f[to + k] = f[k]
            all_d[to + k] = d[k]
        start = stops[i]
