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
