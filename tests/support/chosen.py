"""What was chosen by size is compared by value: of two that tie, or nearly, rounding picks the one or the other."""

import numpy as np


def assert_largest(ids, values, n, *, atol=1e-6):
    """`ids` are of `n` different members of `values` (or all, then -1), the largest first, to `atol`."""
    chosen = [i for i in np.asarray(ids).tolist() if i >= 0]
    values = np.asarray(values, float)
    n = min(n, len(values))
    assert len(set(chosen)) == len(chosen) == n, f"{chosen} are not {n} different ones"
    assert np.asarray(ids).tolist()[:n] == chosen, "what is missing comes last"
    np.testing.assert_allclose(values[chosen], np.sort(values)[::-1][:n], rtol=0, atol=atol)


def largest(values, n=1, *, atol=1e-5):
    """The indices of the `n` largest, in no order. No rounding may decide which they are: the next one is smaller by more than
    `atol`."""
    values = np.asarray(values, float)
    order = np.argsort(-values, kind="stable")
    if n < len(values):
        assert values[order[n - 1]] - values[order[n]] > atol, f"{values[order[n - 1 : n + 1]]} are too close to choose among"
    return sorted(order[:n].tolist())
