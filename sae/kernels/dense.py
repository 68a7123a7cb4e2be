"""The training step with dense products: five of them, on any device. The reference for the others."""

import torch

from sae.kernels.gradients import StepResult, Weights
from sae.shapes import Rows


@torch.no_grad()
def dense_step(weights: Weights, x: Rows, l1_coefficient: float) -> StepResult:
    """Loss parts and gradients for the batch `x`; see `gradients` for the formulas."""
    W_enc, b_enc, W_dec, b_dec = weights
    n_rows = x.shape[0]
    centred = x - b_dec
    f = torch.addmm(b_enc, centred, W_enc.T).relu_()
    error = torch.addmm(b_dec, f, W_dec).sub_(x)
    squared_error = error.square().sum() / n_rows
    active = f > 0
    g = error.mul_(2 / n_rows)
    d = torch.mm(g, W_dec.T).add_(l1_coefficient / n_rows).mul_(active)
    grad_b_enc = d.sum(0)
    gradients = Weights(
        W_enc=torch.mm(d.T, centred),
        b_enc=grad_b_enc,
        W_dec=torch.mm(f.T, g),
        b_dec=g.sum(0) - grad_b_enc @ W_enc,
    )
    return StepResult(gradients, squared_error, f.sum() / n_rows, active.sum(0))
