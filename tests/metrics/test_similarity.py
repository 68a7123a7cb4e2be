import numpy as np
import pytest
import torch

from sae.accumulate import Moments
from sae.metrics.similarity import encoder_decoder_cosine, pearson, row_cosine


def correlate(x, y):
    a, b = Moments.zeros(x.shape[1]), Moments.zeros(y.shape[1])
    a.add(x)
    b.add(y)
    return pearson(a, b, x.double().T @ y.double()).numpy()


def test_pearson_by_hand():
    """x = (0, 2): deviations ∓1. y = (3, 1) falls as it rises; z = (1, 2) rises with it."""
    found = correlate(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0, 1.0], [1.0, 2.0]]))
    np.testing.assert_allclose(found, [[-1.0, 1.0]])


def test_pearson_agrees_with_numpy():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 4, generator=g).relu(), 3 + torch.randn(200, 5, generator=g)
    y[:, 0] += 2 * x[:, 1]
    expected = np.corrcoef(x.double().numpy().T, y.double().numpy().T)[:4, 4:]
    np.testing.assert_allclose(correlate(x, y), expected, atol=1e-12)


def test_a_constant_column_correlates_with_nothing():
    x = torch.full((50, 1), 0.1)
    assert correlate(x, torch.randn(50, 2, generator=torch.Generator().manual_seed(0))).tolist() == [[0.0, 0.0]]
    assert correlate(torch.zeros(50, 1), x).tolist() == [[0.0]]


def test_cosines_by_hand():
    a, b = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [1.0, 0.0], [-2.0, 0.0]])
    np.testing.assert_allclose(row_cosine(a, b), [24 / 25, 0.0, -1.0])
    assert encoder_decoder_cosine(a, b)[0] == pytest.approx(24 / 25)
