import math

import numpy as np
import pytest
import torch

from sae.metrics.density import active_entries
from sae.metrics.reconstruction import ReconstructionSums


def measured(x, f, x_hat, split=None):
    parts = []
    for rows in (slice(None),) if split is None else (slice(0, split), slice(split, None)):
        parts.append(ReconstructionSums.zeros(x.shape[1]))
        parts[-1].add(x[rows], active_entries(f[rows]), x_hat[rows])
    return (parts[0] if split is None else parts[0].merge(parts[1])).result()


def test_two_by_two_by_hand():
    """Errors (0, -1) and (0, 1). The mean of x is (½, 1): squared deviations ¼ + 1 in each row."""
    x, x_hat = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    found = measured(x, torch.tensor([[2.0, 0.0], [1.0, 0.5]]), x_hat)
    assert found.n_tokens == 2
    assert found.squared_error_sum == 1.0
    assert found.squared_error_mean == 0.5
    assert found.fvu == pytest.approx(2 / 2.5)
    assert found.l0 == 1.5
    assert found.l1 == 1.75
    assert found.cosine == pytest.approx((1 / math.sqrt(2) + 1) / 2)
    assert found.norm_ratio == pytest.approx(math.sqrt(3 / 5))


def test_predicting_the_mean_leaves_all_variance_unexplained_wherever_the_mean_is():
    x = 50 + torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    assert measured(x, torch.zeros(40, 3), x.mean(0).expand_as(x)).fvu == pytest.approx(1.0, rel=1e-6)
    assert measured(x, torch.zeros(40, 3), x).fvu == 0.0


def test_parts_merge_to_the_whole_and_agree_with_numpy():
    g = torch.Generator().manual_seed(0)
    x, f, x_hat = torch.randn(50, 6, generator=g), torch.randn(50, 9, generator=g).relu(), torch.randn(50, 6, generator=g)
    found, merged = measured(x, f, x_hat), measured(x, f, x_hat, split=17)
    assert found == pytest.approx(merged)
    a, b, error = x.numpy(), x_hat.numpy(), (x - x_hat).numpy()
    assert found.squared_error_sum == pytest.approx((error**2).sum(1).mean())
    assert found.squared_error_mean == pytest.approx((error**2).mean())
    assert found.fvu == pytest.approx((error**2).sum() / ((a - a.mean(0)) ** 2).sum())
    assert found.l0 == pytest.approx((f > 0).sum(1).double().mean())
    assert found.l1 == pytest.approx(f.sum(1).mean())
    assert found.cosine == pytest.approx(
        ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean(), rel=1e-5
    )


def test_zero_rows_have_cosine_zero_and_no_rows_give_nan():
    zeros = torch.zeros(2, 3)
    assert measured(zeros, zeros, zeros).cosine == 0.0
    assert math.isnan(measured(zeros, zeros, zeros).fvu)
    assert math.isnan(ReconstructionSums.zeros(3).result().squared_error_sum)
