"""The training step with dense products: five of them, in plain torch, on any device. The reference for the others."""

from typing import NamedTuple

import torch
from torch import Tensor

from sae.kernels.gradients import StepResult, Weights
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.state import State
from sae.shapes import Rows

OVERFLOW = 1e18
"""Gradients that may have an entry above this are refused: their squares, which Adam keeps, would leave float32."""


class DenseGradients(NamedTuple):
    """Gradients of the batch loss, and the loss's parts."""

    gradients: Weights
    squared_error: Tensor
    l1: Tensor
    n_fired: Tensor


@torch.no_grad()
def dense_gradients(weights: Weights, x: Rows, l1: float | Tensor, objective: Objective) -> DenseGradients:
    """Loss parts and gradients for the batch `x` at λ = `l1`; see `gradients` for the formulas."""
    W_enc, b_enc, W_dec, b_dec = weights
    n_rows = x.shape[0]
    seen = x - b_dec if objective.tied_bias else x
    f = torch.addmm(b_enc, seen, W_enc.T).relu_()
    error = torch.addmm(b_dec, f, W_dec).sub_(x)
    squared_error = error.square().sum() / n_rows
    active = f > 0
    g = error.mul_(2 / n_rows)
    norms = W_dec.norm(dim=1) if objective.weighted_l1 else torch.ones_like(b_enc)
    d = torch.mm(g, W_dec.T).add_(norms * (l1 / n_rows)).mul_(active)
    sums = f.sum(0)
    grad_W_dec = torch.mm(f.T, g)
    if objective.weighted_l1:
        grad_W_dec += (l1 / n_rows) * (sums / norms.clamp_min(1e-30))[:, None] * W_dec
    grad_b_enc = d.sum(0)
    grad_b_dec = g.sum(0)
    if objective.tied_bias:
        grad_b_dec -= grad_b_enc @ W_enc
    gradients = Weights(torch.mm(d.T, seen), grad_b_enc, grad_W_dec, grad_b_dec)
    return DenseGradients(gradients, squared_error, (sums * norms).sum() / n_rows, active.sum(0))


@torch.no_grad()
def gradient_norm(gradients: Weights) -> Tensor:
    """Euclidean norm of all gradients together, float64."""
    return torch.stack([gradient.double().square().sum() for gradient in gradients]).sum().sqrt()


@torch.no_grad()
def update(state: State, gradients: Weights, learning_rate: float, rule: UpdateRule, norm: Tensor) -> None:
    """One update of `state`, as `rule` has it. Changes `gradients` in place; `norm` is their `gradient_norm`."""
    state.n_updates += 1
    if rule.max_gradient_norm is not None:
        factor = (rule.max_gradient_norm / norm.clamp_min(1e-30)).clamp_max(1.0).to(gradients.W_enc.dtype)
        for gradient in gradients:
            gradient.mul_(factor)
    W_dec = state.weights.W_dec
    if rule.unit_norm:
        if rule.renormalise == "before":
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))
        parallel = torch.linalg.vecdot(gradients.W_dec, W_dec)
        gradients.W_dec.addcmul_(parallel[:, None], W_dec, value=-1)
    beta1, beta2 = rule.betas
    step = learning_rate / (1 - beta1**state.n_updates)
    root = (1 - beta2**state.n_updates) ** 0.5
    for weight, gradient, first, second in zip(state.weights, gradients, state.first, state.second, strict=True):
        first.mul_(beta1).add_(gradient, alpha=1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        weight.addcdiv_(first, second.sqrt().div_(root).add_(rule.eps), value=-step)
    if rule.unit_norm and rule.renormalise == "after":
        W_dec.div_(W_dec.norm(dim=1, keepdim=True))


class DenseEngine:
    """Steps `state` with dense products, on whatever device it lies on."""

    def __init__(self, state: State, objective: Objective, rule: UpdateRule):
        self.state, self.objective, self.rule = state, objective, rule

    def refresh(self) -> None:
        """Nothing is kept beside the state."""

    def settle(self) -> None:
        """Nothing is under way when `step` returns."""

    @torch.no_grad()
    def step(self, x: Rows, l1: float | Tensor, learning_rate: float) -> StepResult:
        """Gradients at λ = `l1` on the batch `x`, then one update; nothing is updated where they are not finite."""
        gradients, squared_error, mean_l1, n_fired = dense_gradients(self.state.weights, x, l1, self.objective)
        norm = gradient_norm(gradients)
        finite = squared_error + mean_l1 + norm < OVERFLOW  # false for NaN
        if finite:
            update(self.state, gradients, learning_rate, self.rule, norm)
        return StepResult(squared_error, mean_l1, n_fired, norm, finite)
