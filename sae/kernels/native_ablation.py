"""Cross-entropies after one direction is taken from a residual stream, for many (row, direction) pairs; compiled.

The logits of a row are s · g + b, with g = centred residual · W_U and s = 1/σ. Without f times a direction u they are
s′ · (g − f v) + b, where v = u · W_U and s′ follows from three scalars: so a pair costs one pass over the vocabulary and no
product of matrices (at d_model 128 a tenth of what that costs). `no_type_check`: see native_rows.

All is one compiled function, the others are `inline`: of a function that is called, the process that compiles keeps a copy
beside the caller's own, optimised once less, and runs another of the two than the processes that find the code in numba's
cache. Its sums were in another order: 64 % of the first run's changes differed from all later runs', by at most 5e-7 nats.
"""

from typing import no_type_check

import numba
import numpy as np

from sae.kernels.compiled import COMPILED

LOG2E = np.float32(1.4426950408889634)
C1, C2, C3 = np.float32(0.6931471805599453), np.float32(0.2402265069591007), np.float32(0.05550410866482158)
C4, C5, C6 = np.float32(0.009618129107628477), np.float32(0.0013333558146428443), np.float32(0.00015403530393381608)
LOWEST, HIGHEST = np.float32(-126.0), np.float32(127.0)
TRUSTED = np.float32(1e-30), np.float32(1e30)


@numba.njit(inline="always", **COMPILED)
@no_type_check
def power_of_e(x):
    """e^x, float32, to (3 + |x|) 1e-7 of itself between e^-87 and e^88; beyond, those. As 2^k 2^r with a whole k and |r| ≤ 1/2,
    the latter by its Taylor series: no call, so eight are computed at once (a loop over numpy's exp is not)."""
    y = min(max(x * LOG2E, LOWEST), HIGHEST)
    k = np.int32(y + np.float32(127.5))
    r = y - np.float32(np.int32(k - np.int32(127)))  # numba makes 64 bits of a difference: uncast, 2.6 times slower
    power = np.float32(1) + r * (C1 + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * C6)))))
    return power * np.uint32(np.uint32(k) << np.uint32(23)).view(np.float32)


@numba.njit(inline="always", **COMPILED)
@no_type_check
def sum_of_powers(g, v, f, scale, bias, reference):
    """Σ exp(l − reference) with l = `scale` · (g − f v) + bias."""
    total = np.float32(0)
    for k in range(g.shape[0]):
        total += power_of_e(scale * (g[k] - f * v[k]) + bias[k] - reference)
    return total


@numba.njit(inline="always", **COMPILED)
@no_type_check
def largest(g, v, f, scale, bias):
    highest = np.float32(-np.inf)
    for k in range(g.shape[0]):
        highest = max(highest, scale * (g[k] - f * v[k]) + bias[k])
    return highest


@numba.njit(inline="always", **COMPILED)
@no_type_check
def cross_entropy(g, v, f, scale, bias, target, reference):
    """log Σ exp(l) − l[target]. `reference` is the largest logit of the row as it is: finding that of every pair would more
    than double the time (1.07 ns an entry for 0.46), and is done where a change is so large that float32 does not hold it."""
    total = sum_of_powers(g, v, f, scale, bias, reference)
    if not (total > TRUSTED[0] and total < TRUSTED[1]):
        reference = largest(g, v, f, scale, bias)
        total = sum_of_powers(g, v, f, scale, bias, reference)
    return np.log(np.float64(total)) + np.float64(reference) - np.float64(scale * (g[target] - f * v[target]) + bias[target])


@numba.njit(inline="always", **COMPILED)
@no_type_check
def inverse_scale(residual, u, f, eps, normed):
    """1/σ of a centred residual without f times `u`; float64 sums, as what is left may be small."""
    if not normed:
        return np.float32(1)
    squares = 0.0
    for d in range(residual.shape[0]):
        entry = np.float64(residual[d]) - np.float64(f) * np.float64(u[d])
        squares += entry * entry
    return np.float32(1.0 / np.sqrt(squares / residual.shape[0] + eps))


@numba.njit(**COMPILED)
@no_type_check
def loss_changes(start, stop, row, direction, value, residual, g, u, v, bias, target, eps, normed, changes):
    """`changes[j]` = cross-entropy of row[j] without value[j] times direction[j], less that of the row as it is, nats, for the
    pairs j from `start` to `stop`, which are sorted by row. `residual` [row, d_model] and `u` [direction, d_model] are centred,
    `g` [row, vocab] and `v` [direction, vocab] are these times W_U, `target` [row] is the token that came."""
    before, clean, reference, none = -1, 0.0, np.float32(0), np.float32(0)
    for j in range(start, stop):
        r, i, f = row[j], direction[j], value[j]
        if r != before:
            before = r
            scale = inverse_scale(residual[r], u[i], none, eps, normed)
            reference = largest(g[r], v[i], none, scale, bias)
            clean = cross_entropy(g[r], v[i], none, scale, bias, target[r], reference)
        scale = inverse_scale(residual[r], u[i], f, eps, normed)
        changes[j] = cross_entropy(g[r], v[i], f, scale, bias, target[r], reference) - clean
