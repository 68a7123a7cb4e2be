"""Of every unit of one set the units of another that correlate most with it, where both are sparse.

Pairs that are never active together need not be gone through: their covariance is -n m_i m_j of the means, so that whichever
unit i is, the best of them are those with the least m_j / σ_j. A unit is compared with what is active beside it, and with the
first few of one list."""

from typing import no_type_check

import numba
import numpy as np

from sae.kernels.compiled import COMPILED

STRICT = {**COMPILED, "fastmath": False}
"""Sums here are scattered, so that nothing is gained by another order; and whether a function is inlined changes no bit."""


@numba.njit(**STRICT)
@no_type_check
def best_partners(
    begin,
    end,
    start,
    token,
    value,
    total,
    spread,
    token_start,
    unit,
    other_value,
    other_total,
    other_spread,
    rare,
    n,
    own,
    ids,
    best,
):
    """Write the `ids` [i, k] of the k best partners of each of the units `begin` to `end` that are ever active, and their
    correlations, over `n` rows, to `best`; of equals the one that comes first. What is there already must be below every one.

    What fires in unit i is `start[i] : start[i + 1]` of `token` and `value`, on token t `token_start[t] : token_start[t + 1]` of
    `unit` and `other_value`. `total` is the sum over rows, `spread` the root of the squared deviation, 0 for a constant; `rare`
    are the units that are ever active, by `other_total / other_spread`. Unit i is left out of its own list: it is `own + i` of
    the others, or `own` < 0."""
    n_other = len(other_total)
    products = np.zeros(n_other)
    seen = np.empty(n_other, np.int64)
    for i in range(begin, end):
        if start[i] == start[i + 1]:
            continue
        itself = own + i if own >= 0 else -1
        n_seen = 0
        for k in range(start[i], start[i + 1]):
            weight = np.float64(value[k])  # `float` leaves float32, whose products vanish below 1e-45
            for m in range(token_start[token[k]], token_start[token[k] + 1]):
                j = unit[m]
                if products[j] == 0.0:
                    seen[n_seen] = j
                    n_seen += 1
                products[j] += weight * other_value[m]
        for k in range(n_seen):
            j = seen[k]
            if j != itself:
                _insert(ids[i], best[i], j, _correlation(products[j], total[i], other_total[j], spread[i], other_spread[j], n))
        left = ids.shape[1]
        for j in rare:
            if left == 0:
                break
            if products[j] == 0.0 and j != itself:
                _insert(ids[i], best[i], j, _correlation(0.0, total[i], other_total[j], spread[i], other_spread[j], n))
                left -= 1
        for k in range(n_seen):
            products[seen[k]] = 0.0


@numba.njit(**STRICT)
@no_type_check
def _correlation(product, total, other_total, spread, other_spread, n):
    scale = spread * other_spread
    if not scale > 0.0:
        return 0.0
    return min(1.0, max(-1.0, (product - total * other_total / n) / scale))


@numba.njit(**STRICT)
@no_type_check
def _insert(ids, best, j, r):
    """Into the list of the best, which is in order."""
    last = len(ids) - 1
    if r < best[last] or (r == best[last] and j > ids[last]):
        return
    k = last
    while k > 0 and (r > best[k - 1] or (r == best[k - 1] and j < ids[k - 1])):
        ids[k], best[k] = ids[k - 1], best[k - 1]
        k -= 1
    ids[k], best[k] = j, r
