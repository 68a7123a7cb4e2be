import math

import numpy as np
import pytest
import torch

from sae.metrics.losses import (
    ContextLosses,
    bootstrap_errors,
    kl_divergence,
    loss_recovered,
    summarize,
    token_losses,
    told_recovered,
)


def test_loss_recovered_by_hand():
    assert loss_recovered(clean=4.0, spliced=5.0, ablated=9.0) == 0.8
    assert loss_recovered(clean=4.0, spliced=4.0, ablated=9.0) == 1.0
    assert loss_recovered(clean=4.0, spliced=10.0, ablated=9.0) == -0.2
    assert math.isnan(loss_recovered(clean=4.0, spliced=5.0, ablated=4.0))
    assert math.isnan(loss_recovered(clean=4.1, spliced=3.9, ablated=4.0))


def test_a_share_that_is_none_says_why():
    figures = {"loss_clean": 4.1, "loss_zero_ablated": 4.0, "loss_recovered_zero": None}
    assert "the clean loss, 4.100, is not below the zero-ablated one, 4.000" in told_recovered(figures, "zero")
    known = {"loss_clean": 1.0, "loss_mean_ablated": 4.0, "loss_recovered_mean": 0.75, "loss_recovered_mean_error": 0.01}
    assert told_recovered(known, "mean") == "75.0%"
    assert told_recovered(known, "mean", error=True) == "75.0% ± 1.0%"
    assert told_recovered({}, "zero") == "none"


def test_kl_by_hand():
    """½ ln(½ / ¼) + ½ ln(½ / ¾), and 0 of a distribution with itself."""
    p, q = torch.tensor([[[0.5, 0.5]]]).log(), torch.tensor([[[0.25, 0.75]]]).log()
    assert float(kl_divergence(p, q)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert float(kl_divergence(q, q)) == 0.0


def test_token_losses_are_those_of_the_next_token():
    probs = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]])
    found = token_losses(probs.log(), torch.tensor([[0, 1, 0]]))
    np.testing.assert_allclose(found, [[-math.log(0.1), -math.log(0.2)]], rtol=1e-6)


def losses(n_predicted, clean, reconstructed, zero, mean, kl):
    return ContextLosses(np.array(n_predicted), *(np.array(part, float) for part in (clean, reconstructed, zero, mean, kl)))


def test_summary_weights_tokens_equally_whichever_context_they_are_in():
    """Two contexts of 1 and 3 predicted tokens: clean (1 + 7) / 4 = 2, reconstructed 3, zero 7, mean 4."""
    found = summarize(losses([1, 3], [1, 7], [3, 9], [7, 21], [4, 12], [1, 1]), n_bootstrap=10, seed=0)
    assert found.n_predicted == 4
    assert (found.loss_clean, found.loss_reconstructed) == (2.0, 3.0)
    assert (found.loss_zero_ablated, found.loss_mean_ablated, found.kl) == (7.0, 4.0, 0.5)
    assert (found.loss_recovered_zero, found.loss_recovered_mean, found.nats_lost) == (0.8, 0.5, 1.0)


def test_equal_contexts_have_no_error():
    found = summarize(losses([2] * 8, [4] * 8, [5] * 8, [9] * 8, [6] * 8, [1] * 8), n_bootstrap=50, seed=0)
    assert found.loss_recovered_zero_error == pytest.approx(0.0)
    assert found.nats_lost_error == pytest.approx(0.0)


def test_the_bootstrap_error_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    sums = np.stack([np.ones(400), values])
    (error,) = bootstrap_errors(sums, lambda total: (float(total[1] / total[0]),), 4000, seed=1)
    assert error == pytest.approx(values.std() / 20, rel=0.05)
