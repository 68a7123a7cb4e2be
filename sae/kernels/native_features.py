"""The sparse step's work by features, compiled: both weight gradients, then projection, Adam, normalisation in one pass.

A feature's gradient is summed over its rows in their order and used at once, so it never leaves the cache, and one thread
does all of one feature: the same bits at any number of threads.
"""

from typing import no_type_check

import numba
import numpy as np

from sae.kernels.compiled import COMPILED


@numba.njit(**COMPILED)
@no_type_check
def adam_row(weight, gradient, first, second, beta1, rest1, beta2, rest2, step, root, eps):
    """One Adam update of a row, in place; returns the row's new squared norm. `rest1` and `rest2` are 1 − β₁ and 1 − β₂, rounded
    from float64: taken of a float32 0.999, the second would be wrong by 1.3e-5 of itself."""
    squared = np.float32(0)
    for d in range(weight.shape[0]):
        m = beta1 * first[d] + rest1 * gradient[d]
        v = beta2 * second[d] + rest2 * gradient[d] * gradient[d]
        first[d] = m
        second[d] = v
        value = weight[d] - step * m / (np.sqrt(v) * root + eps)
        weight[d] = value
        squared += value * value
    return squared


@numba.njit(**COMPILED)
@no_type_check
def normalise(row, squared):
    """Scale `row`, of squared norm `squared`, to length 1; a row of zeros stays."""
    if squared > 0:
        inverse = np.float32(1) / np.sqrt(squared)
        for d in range(row.shape[0]):
            row[d] *= inverse


@numba.njit(**COMPILED)
@no_type_check
def squared_norm(row):
    total = np.float32(0)
    for d in range(row.shape[0]):
        total += row[d] * row[d]
    return total


@numba.njit(**COMPILED)
@no_type_check
def gather_gradient(j, starts, rows, f, d_pre, g, seen, W_dec, weighted, l1_scale, grad_enc, grad_dec):
    """∂W_enc[j] and ∂W_dec[j] into the two buffers; returns ∂b_enc[j]."""
    width = g.shape[1]
    grad_enc[:] = 0
    grad_dec[:] = 0
    grad_b, sum_f = np.float32(0), np.float32(0)
    for k in range(starts[j], starts[j + 1]):
        value, slope = f[k], d_pre[k]
        g_row, x_row = g[rows[k]], seen[rows[k]]
        grad_b += slope
        sum_f += value
        for d in range(width):
            grad_dec[d] += value * g_row[d]
            grad_enc[d] += slope * x_row[d]
    if weighted:
        norm = np.sqrt(squared_norm(W_dec[j]))
        if norm > 0:
            for d in range(width):
                grad_dec[d] += l1_scale * sum_f / norm * W_dec[j, d]
    return grad_b


@numba.njit(**COMPILED)
@no_type_check
def apply_gradient(j, grad_enc, grad_b, grad_dec, weights, first, second, adam, unit_norm, before):
    """Projection, Adam and normalisation of feature `j`; changes `grad_dec`. Returns the new ‖W_enc[j]‖."""
    W_enc, b_enc, W_dec = weights
    beta1, rest1, beta2, rest2, step, root, eps = adam
    decoder = W_dec[j]
    if unit_norm:
        if before:
            normalise(decoder, squared_norm(decoder))
        parallel = np.float32(0)
        for d in range(decoder.shape[0]):
            parallel += grad_dec[d] * decoder[d]
        for d in range(decoder.shape[0]):
            grad_dec[d] -= parallel * decoder[d]
    squared = adam_row(decoder, grad_dec, first[2][j], second[2][j], beta1, rest1, beta2, rest2, step, root, eps)
    if unit_norm and not before:
        normalise(decoder, squared)
    m = beta1 * first[1][j] + rest1 * grad_b
    v = beta2 * second[1][j] + rest2 * grad_b * grad_b
    first[1][j] = m
    second[1][j] = v
    b_enc[j] -= step * m / (np.sqrt(v) * root + eps)
    return np.sqrt(adam_row(W_enc[j], grad_enc, first[0][j], second[0][j], beta1, rest1, beta2, rest2, step, root, eps))


@numba.njit(**COMPILED)
@no_type_check
def to_bfloat16(row, out):
    """Round a finite float32 row to the bits of bfloat16, to nearest even."""
    for d in range(row.shape[0]):
        bits = np.float32(row[d]).view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        out[d] = np.uint16((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@numba.njit(**COMPILED)
@no_type_check
def update_features(
    first_feature, end_feature, starts, lists, g, seen, weights, first, second, adam, flags, l1_scale, norms, bits, to_b_dec
):
    """Gradients and update of a block of features in one go. `to_b_dec` becomes Σ_j ∂b_enc[j] W_enc[j] (before the update),
    for the tied bias; `norms` ‖W_enc[j]‖ and `bits` W_enc in bfloat16 (skipped where `bits` is empty). Returns the sum of the
    squared gradients, float64."""
    unit_norm, before, weighted = flags
    rows, f, d_pre = lists
    width = g.shape[1]
    grad_enc, grad_dec = np.empty(width, np.float32), np.empty(width, np.float32)
    to_b_dec[:] = 0
    total = 0.0
    for j in range(first_feature, end_feature):
        grad_b = gather_gradient(j, starts, rows, f, d_pre, g, seen, weights[2], weighted, l1_scale, grad_enc, grad_dec)
        total += squared_norm(grad_enc) + squared_norm(grad_dec) + np.float64(grad_b) * grad_b
        encoder = weights[0][j]
        for d in range(width):
            to_b_dec[d] += grad_b * encoder[d]
        norms[j] = apply_gradient(j, grad_enc, grad_b, grad_dec, weights, first, second, adam, unit_norm, before)
        if bits.shape[0] > 0:
            to_bfloat16(encoder, bits[j])
    return total


@numba.njit(**COMPILED)
@no_type_check
def gather_features(
    first_feature, end_feature, starts, lists, g, seen, weights, weighted, l1_scale, grad_enc, grad_b, grad_dec, to_b_dec
):
    """As `update_features`, but the gradients are written out and nothing is updated: for clipping, and for tests."""
    rows, f, d_pre = lists
    to_b_dec[:] = 0
    total = 0.0
    for j in range(first_feature, end_feature):
        b = gather_gradient(j, starts, rows, f, d_pre, g, seen, weights[2], weighted, l1_scale, grad_enc[j], grad_dec[j])
        grad_b[j] = b
        total += squared_norm(grad_enc[j]) + squared_norm(grad_dec[j]) + np.float64(b) * b
        for d in range(g.shape[1]):
            to_b_dec[d] += b * weights[0][j, d]
    return total


@numba.njit(**COMPILED)
@no_type_check
def apply_features(
    first_feature, end_feature, factor, grad_enc, grad_b, grad_dec, weights, first, second, adam, flags, norms, bits
):
    """Update a block of features from gradients that lie in memory, each multiplied by `factor` first (in place)."""
    unit_norm, before, _ = flags
    for j in range(first_feature, end_feature):
        if factor != 1:
            for d in range(grad_enc.shape[1]):
                grad_enc[j, d] *= factor
                grad_dec[j, d] *= factor
        norms[j] = apply_gradient(
            j, grad_enc[j], factor * grad_b[j], grad_dec[j], weights, first, second, adam, unit_norm, before
        )
        if bits.shape[0] > 0:
            to_bfloat16(weights[0][j], bits[j])
