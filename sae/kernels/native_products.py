"""Products of two sets of units over the same tokens, where both are sparse: only tokens on which both are active cost anything.

Row by row (Gustavson 1978): the units of the first set come one after the other, so that what is written to is one row of the
result, which stays in a cache. The dense product of 4,096 with 4,096 features over 393,216 tokens would be 6.6e12
multiplications; at an L0 of 20 in both these are 1.6e8."""

from typing import no_type_check

import numba
import numpy as np

from sae.kernels.compiled import COMPILED


@numba.njit(**COMPILED)
@no_type_check
def add_row_products(start, stop, token, value, row_of, base, rows, total):
    """Add Σ f x over what fires in unit i, `start[i] : stop[i]` of `token` and `value`, to `total` [i, d_mlp], float64: x is the
    row `row_of[t - base]` of `rows` for token t. One after the other, so that it does not matter in how many calls they come."""
    for i in range(len(start)):
        out = total[i]
        for k in range(start[i], stop[i]):
            weight, row = float(value[k]), rows[row_of[token[k] - base]]
            for d in range(out.shape[0]):
                out[d] += weight * row[d]


@numba.njit(**COMPILED)
@no_type_check
def advance(start, stop, token, end):
    """For each unit the first k from `start[i]` on with a token of at least `end`; its tokens, up to `stop[i]`, are in order."""
    found = np.empty(len(start), np.int64)
    for i in range(len(start)):
        k = start[i]
        while k < stop[i] and token[k] < end:
            k += 1
        found[i] = k
    return found


@numba.njit(**COMPILED)
@no_type_check
def add_products(start, token, value, first, token_start, unit, other_value, roll, total):
    """Add Σ over tokens of (unit `first + i`) · (other unit j) to `total` [i, j], float64.

    The first set lies by unit: what fires in unit i is `start[i] : start[i + 1]` of `token` and `value`. The other lies by token:
    what fires on token t is `token_start[t] : token_start[t + 1]` of `unit` and `other_value`. Token t of the first set meets
    token (t + roll) modulo all tokens of the other; 0 <= roll <= tokens."""
    n_tokens = len(token_start) - 1
    for i in range(len(total)):
        row = total[i]
        for k in range(start[first + i], start[first + i + 1]):
            t = token[k] + roll
            if t >= n_tokens:
                t -= n_tokens
            weight = float(value[k])
            for m in range(token_start[t], token_start[t + 1]):
                row[unit[m]] += weight * other_value[m]
