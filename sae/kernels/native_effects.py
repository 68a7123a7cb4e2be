"""What taking one direction from a residual stream does to the probability of every token, summed by direction; compiled.

As in `native_ablation`: the logits of a row without f times a direction u are s′ · (g − f v) + b, so a pair costs passes over the
vocabulary and no product of matrices. Pairs come by direction: what is added to is then one row of the result, which stays in a
cache, and threads that have different directions write to different places. `no_type_check`: see native_rows.
"""

from typing import no_type_check

import numba
import numpy as np

from sae.kernels.compiled import COMPILED
from sae.kernels.native_ablation import TRUSTED, inverse_scale, largest, power_of_e


@numba.njit(**COMPILED)
@no_type_check
def powers(g, v, f, scale, bias, reference, result):
    """`result` = exp(l − reference) with l = `scale` · (g − f v) + bias; returns their sum."""
    total = np.float32(0)
    for k in range(g.shape[0]):
        power = power_of_e(scale * (g[k] - f * v[k]) + bias[k] - reference)
        result[k] = power
        total += power
    return total


@numba.njit(**COMPILED)
@no_type_check
def clean_probabilities(start, stop, residual, g, u, v, bias, eps, normed, reference, probability):
    """Of rows `start` to `stop`: `reference` [row] = the largest logit, `probability` [row, vocab] = softmax. With the same
    powers of e as `add_effects` has, so that what does nothing changes no bit. `u` and `v` are there for their types."""
    none = np.float32(0)
    for r in range(start, stop):
        scale = inverse_scale(residual[r], u[0], none, eps, normed)
        reference[r] = largest(g[r], v[0], none, scale, bias)
        inverse = np.float32(1) / powers(g[r], v[0], none, scale, bias, reference[r], probability[r])
        for k in range(g.shape[1]):
            probability[r, k] *= inverse


@numba.njit(**COMPILED)
@no_type_check
def add_effects(first, last, start, row, value, residual, g, u, v, bias, eps, normed, reference, probability, total):
    """Add Σ over the pairs j of direction i of p[row[j]] − p[row[j] without value[j] · u[i]] to `total` [i, vocab], for the
    directions from `first` to `last`, whose pairs are `start[i] : start[i + 1]`. `residual` [row, d_model] and `u` [direction,
    d_model] are centred, `g` [row, vocab] and `v` [direction, vocab] are these times W_U."""
    power = np.empty(g.shape[1], np.float32)
    for i in range(first, last):
        sums = total[i]
        for j in range(start[i], start[i + 1]):
            r, f = row[j], value[j]
            scale = inverse_scale(residual[r], u[i], f, eps, normed)
            norm = powers(g[r], v[i], f, scale, bias, reference[r], power)
            if not (norm > TRUSTED[0] and norm < TRUSTED[1]):
                norm = powers(g[r], v[i], f, scale, bias, largest(g[r], v[i], f, scale, bias), power)
            inverse = np.float32(1) / norm
            clean = probability[r]
            for k in range(g.shape[1]):
                sums[k] += clean[k] - inverse * power[k]
