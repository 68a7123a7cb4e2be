"""The step's gradients in float64, rounded to bfloat16 where the GPU's kernels round: what these are checked against."""

from typing import NamedTuple

import torch
from torch import Tensor

from sae.kernels.dense import DenseGradients
from sae.kernels.gradients import Weights
from sae.kernels.objective import Objective
from sae.shapes import Rows

NEAR_ZERO = 1e-4
"""A pre-activation within this of zero may be active or not: float32's sums round it, these do not."""


class Rounded(NamedTuple):
    """What a step should find, all float64 on the CPU."""

    step: DenseGradients
    fewest: Tensor
    """Rows on which each feature is active whatever rounding does, int64."""
    most: Tensor
    """Rows on which each feature may be active."""


def bfloat16(values: Tensor) -> Tensor:
    """`values`, rounded to float32 and then to bfloat16, as float64."""
    return values.float().bfloat16().double()


@torch.no_grad()
def rounded_step(weights: Weights, x: Rows, l1: float, objective: Objective, *, dense: bool) -> Rounded:
    """Loss parts and gradients of the batch `x` at λ = `l1`; `dense` says which path's roundings (docs/gpu.md)."""
    W_enc, b_enc, W_dec, b_dec = (weight.double().cpu() for weight in weights)
    exact = x.float().cpu()
    n_rows = len(exact)
    seen = bfloat16(exact - weights.b_dec.cpu()) if objective.tied_bias else bfloat16(exact)
    before = seen @ bfloat16(W_enc).T + b_enc
    f = before.relu()
    norms = W_dec.norm(dim=1)
    cost = norms if objective.weighted_l1 else torch.ones_like(norms)
    used_f = bfloat16(f) if dense else f
    error = used_f @ bfloat16(W_dec) + b_dec - exact.double()
    g = 2 / n_rows * error
    d = (bfloat16(g) if dense else g) @ bfloat16(W_dec).T + l1 * cost / n_rows
    d = d * (f > 0)
    used_d = bfloat16(d) if dense else d
    of_W_dec = used_f.T @ bfloat16(g)
    if objective.weighted_l1:
        of_W_dec += (l1 / n_rows) * (f.sum(0) / norms)[:, None] * W_dec
    of_b_dec = bfloat16(g).sum(0)
    if objective.tied_bias:
        of_b_dec -= d.sum(0) @ W_enc
    gradients = Weights(used_d.T @ seen, d.sum(0), of_W_dec, of_b_dec)
    loss = error.square().sum() / n_rows, (f * cost).sum() / n_rows
    step = DenseGradients(gradients, *loss, (f > 0).sum(0))
    return Rounded(step, (before > NEAR_ZERO).sum(0), (before > -NEAR_ZERO).sum(0))
