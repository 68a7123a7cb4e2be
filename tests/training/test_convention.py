"""λ between conventions: by hand, and by the optimum itself."""

import pytest
import torch

from sae.errors import ConfigError
from sae.training.convention import convert_lambda


def test_by_hand():
    """The paper's 0.004 on 512 neurons is 2.048 for us."""
    assert convert_lambda(0.004, "paper", "ours", d_mlp=512) == pytest.approx(2.048)
    assert convert_lambda(2.048, "ours", "paper", d_mlp=512) == pytest.approx(0.004)
    assert convert_lambda(5.0, "saelens", "dictionary_learning", d_mlp=512) == 5.0


def test_same_optimum_on_other_scale_and_reduction():
    """One feature along the only direction: the best activation of each loss, found by search, is the same multiple of x."""
    x, d_mlp = 3.0, 7
    candidates = torch.linspace(0, 1, 10001, dtype=torch.float64)

    def best(scale, mean, l1):
        f = candidates * scale * x
        error = (scale * x - f) ** 2 / (d_mlp if mean else 1)
        return float(candidates[(error + l1 * f).argmin()])

    ours = best(1.0, False, 1.2)
    converted = convert_lambda(1.2, "ours", "paper", d_mlp=d_mlp, source_scale=1.0, target_scale=4.0)
    assert best(4.0, True, converted) == pytest.approx(ours, abs=2e-4)
    assert ours == pytest.approx(1 - 1.2 / 2 / x, abs=2e-4)


def test_unknown_convention():
    with pytest.raises(ConfigError, match="no convention 'nanda'"):
        convert_lambda(1.0, "nanda", "ours", d_mlp=2)
