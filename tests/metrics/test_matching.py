import itertools

import numpy as np
import torch

from sae.metrics.matching import one_to_one


def brute_force(similarity):
    """Best sum over all injective maps of the shorter side."""
    matrix = np.maximum(similarity, 0)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    rows = np.arange(len(matrix))
    return max(matrix[rows, list(columns)].sum() for columns in itertools.permutations(range(matrix.shape[1]), len(matrix)))


def test_the_sum_is_the_largest_of_all_matchings():
    rng = np.random.default_rng(0)
    for shape in ((4, 4), (3, 5), (5, 3)):
        similarity = rng.uniform(-1, 1, shape)
        found = one_to_one(torch.from_numpy(similarity))
        used = found.column[found.column >= 0]
        assert len(used) == len(set(used.tolist()))
        np.testing.assert_allclose(found.similarity.sum(), brute_force(similarity))
        for row, column in enumerate(found.column.tolist()):
            assert found.similarity[row] == (similarity[row, column] if column >= 0 else 0)


def test_no_pair_below_zero_and_the_input_stays():
    similarity = torch.tensor([[0.5, 0.9], [-0.1, 0.8]], dtype=torch.float64)
    before = similarity.clone()
    found = one_to_one(similarity)
    assert found.column.tolist() == [0, 1]
    assert torch.equal(similarity, before)
    assert one_to_one(torch.tensor([[-0.5, 0.0]])).column.tolist() == [-1]
