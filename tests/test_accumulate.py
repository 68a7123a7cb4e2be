import numpy as np
import torch

from sae.accumulate import Moments


def filled(rows):
    moments = Moments.zeros(rows.shape[1])
    moments.add(rows)
    return moments


def test_by_hand():
    moments = filled(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    assert moments.n == 2
    assert moments.mean.tolist() == [2.0, 2.0]
    assert moments.squared_deviation.tolist() == [2.0, 8.0]


def test_parts_merge_to_the_whole():
    rows = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    merged = filled(rows[:30]).merge(filled(rows[30:31])).merge(filled(rows[31:]))
    whole = filled(rows)
    assert merged.n == whole.n == 100
    torch.testing.assert_close(merged.total, whole.total)
    torch.testing.assert_close(merged.squared_deviation, whole.squared_deviation)
    np.testing.assert_allclose(whole.squared_deviation / 100, rows.double().numpy().var(0))


def test_small_deviations_about_a_large_mean_survive():
    rows = 1000 + 0.01 * torch.randn(10_000, 1, generator=torch.Generator().manual_seed(0))
    moments = filled(rows[:1])
    for part in rows[1:].split(100):
        moments.add(part)
    np.testing.assert_allclose(moments.squared_deviation, rows.double().numpy().var(0) * 10_000, rtol=1e-5)


def test_nothing_added_has_no_mean():
    assert torch.isnan(Moments.zeros(3).mean).all()
    assert Moments.zeros(3).squared_deviation.tolist() == [0, 0, 0]
