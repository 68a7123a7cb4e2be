"""Of equals the lowest index comes first, whatever a sum in another order made of them."""

import numpy as np

from sae.ties import in_order


def test_the_order_of_equals_is_that_of_their_indices():
    for noise in (0, 4e-16, -4e-16):
        values = np.array([0.2, 1.0, 1.0 + noise, 0.5, 1.0 - noise, 0.5 + noise])
        assert in_order(values) == [1, 2, 4, 3, 5, 0]
    assert in_order(np.array([0.5, 0.5 + 1e-8])) == [1, 0]
    assert in_order(np.zeros(0)) == []
