"""A step of the GPU engine once more, in float64 torch, rounding to bfloat16 where the engine does and nowhere else."""

import torch

from sae.kernels.gradients import Weights
from sae.kernels.triton_buffers import Tuning

SMALL = Tuning(
    rows=16, features=16, parts=2, columns=16, depth=16, at_once=8, placed_at_once=16,
    feature_programs=4, dense_programs=2, block_bytes=2 * 36 * 16,
)  # fmt: skip
"""Tiles small enough for the interpreter, and sizes that none of the tests' shapes is a multiple of."""
N_ROWS, N_FEATURES, D_MLP = 24, 36, 20


def problem(bias=-5.0, seed=0, n_rows=N_ROWS):
    """Weights and rows; the last feature never fires."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    b_enc = normal(N_FEATURES) + bias
    b_enc[-1] = -1000.0
    W_dec = torch.nn.functional.normalize(normal(N_FEATURES, D_MLP), dim=1)
    weights = Weights(normal(N_FEATURES, D_MLP), b_enc, W_dec, normal(D_MLP))
    return weights, normal(n_rows, D_MLP) * 2


def bf16(tensor):
    return tensor.float().bfloat16().double()


def forward_and_back(weights, x, l1, objective, *, dense):
    """All intermediate results by name, float64."""
    W_enc, b_enc, W_dec, b_dec = (w.double() for w in weights)
    n_rows = len(x)
    seen = bf16(x - weights.b_dec if objective.tied_bias else x)
    f = torch.relu(seen @ bf16(W_enc).T + b_enc)
    norms = W_dec.norm(dim=1)
    c = norms if objective.weighted_l1 else torch.ones_like(norms)
    used = bf16(f) if dense else f
    error = used @ bf16(W_dec) + b_dec - x.double()
    g = 2 / n_rows * error
    d = ((bf16(g) if dense else g) @ bf16(W_dec).T + l1 * c / n_rows) * (f > 0)
    used_d = bf16(d) if dense else d
    grad_W_dec = used.T @ bf16(g)
    if objective.weighted_l1:
        grad_W_dec += (l1 / n_rows) * (f.sum(0) / norms)[:, None] * W_dec
    grad_b_dec = bf16(g).sum(0)
    if objective.tied_bias:
        grad_b_dec -= d.sum(0) @ W_enc
    gradients = Weights(used_d.T @ seen, d.sum(0), grad_W_dec, grad_b_dec)
    squares = [error, None, f, g, d, seen]
    sums = torch.stack([(f * c).sum() if t is None else t.square().sum() for t in squares])
    return {
        "seen": seen, "f": f, "g": g, "d": d, "gradients": gradients, "sums": sums, "n_fired": (f > 0).sum(0),
        "squared_error": error.square().sum() / n_rows, "l1": (f * c).sum() / n_rows,
        "norm": torch.stack([t.square().sum() for t in gradients]).sum().sqrt(),
    }  # fmt: skip


def updated(tensors, gradients, norm, learning_rate, rule, t):
    """The state's tensors (by name, as in `State.tensors`) after update number `t`, float64."""
    new = {name: tensor.double().clone() for name, tensor in tensors.items()}
    gradients = Weights(*(g.double().clone() for g in gradients))
    if rule.max_gradient_norm is not None:
        gradients = Weights(*(g * min(1.0, rule.max_gradient_norm / float(norm)) for g in gradients))
    if rule.unit_norm:
        if rule.renormalise == "before":
            new["W_dec"] /= new["W_dec"].norm(dim=1, keepdim=True)
        along = (gradients.W_dec * new["W_dec"]).sum(1, keepdim=True)
        gradients = gradients._replace(W_dec=gradients.W_dec - along * new["W_dec"])
    beta1, beta2 = rule.betas
    for name, gradient in zip(Weights._fields, gradients, strict=True):
        first = beta1 * new[f"first.{name}"] + (1 - beta1) * gradient
        second = beta2 * new[f"second.{name}"] + (1 - beta2) * gradient**2
        new[f"first.{name}"], new[f"second.{name}"] = first, second
        new[name] = new[name] - learning_rate * (first / (1 - beta1**t)) / ((second / (1 - beta2**t)).sqrt() + rule.eps)
    if rule.unit_norm and rule.renormalise == "after":
        new["W_dec"] /= new["W_dec"].norm(dim=1, keepdim=True)
    return new


def relative(a, b):
    """Relative distance of `a` from `b`, Euclidean."""
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))
