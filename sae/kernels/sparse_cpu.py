"""The same step on a CPU with four of its five products done on the active entries alone, and the fifth screened.

At an L0 of 20 of 2,048 features 99 % of f is zero. Decoding, the features' gradient and both weight gradients touch the
active entries only. The encoder's product has to look at every entry; where the processor multiplies bfloat16 matrices
it first does so in bfloat16, at a quarter of the cost, to find the entries that *could* be active, and computes those in
float32. Nothing is approximated: no active entry is missed (the bound is below), and results differ from the dense step
by the order of summation only.

The screen's bound. Let u = 2⁻⁸, bfloat16's unit roundoff. Rounding both inputs changes Σ_d x_d w_d by at most
(2u + u²) Σ|x_d w_d|; accumulating n products in float32, in any order, by at most n 2⁻²⁴ (1 + u)² Σ|x_d w_d| / (1 − n 2⁻²⁴);
and Σ|x_d w_d| ≤ ‖x‖‖w‖ (Cauchy-Schwarz). Call the sum of both β ‖x‖‖w‖. The exact pre-activation x·w + b is positive only if
the accumulated product is above t = −b − β ‖x‖‖w‖; rounding it to bfloat16 moves it by at most u of itself, and so does
rounding the threshold, which is therefore put at t − 2.1 u |t|. `SLACK` covers the float32 rounding of the bound itself and
underflow.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from sae.kernels.gradients import StepResult, Weights
from sae.shapes import Rows

with warnings.catch_warnings():  # torch says once a process that CSR is in beta; the versions are pinned and tested
    warnings.simplefilter("ignore")
    torch.zeros(1, 1).to_sparse_csr()

ROWS_AT_ONCE = 512
"""Rows encoded at a time, so that the dense [row, feature] block stays in cache (2 or 4 MB at 2,048 features)."""
ROUNDOFF = 2.0**-8
SLACK = 1e-6


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16 (else the screen would cost more than it saves)."""
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


Csr = tuple[Tensor, Tensor, Tensor]
"""Row offsets (int32, row + 1), feature of each entry (int32), value of each entry: f > 0 only."""


def encode_plain(weights: Weights, centred: Rows) -> Csr:
    """The active entries of f from a float32 product over all."""
    offsets, features, values = [torch.zeros(1, dtype=torch.int32)], [], []
    n_before = 0
    for block in centred.split(ROWS_AT_ONCE):
        f = torch.addmm(weights.b_enc, block, weights.W_enc.T).relu_().to_sparse_csr()
        offsets.append(f.crow_indices()[1:].int() + n_before)
        features.append(f.col_indices().int())
        values.append(f.values())
        n_before += f.values().numel()
    return torch.cat(offsets), torch.cat(features), torch.cat(values)


def screen(weights: Weights, centred: Rows) -> tuple[Tensor, Tensor]:
    """CSR pattern (row offsets, features) of a superset of the active entries: those that the bound does not rule out."""
    W_enc = weights.W_enc.bfloat16()
    n = centred.shape[1]
    accumulation = n * 2.0**-24 * (1 + ROUNDOFF) ** 2 / (1 - n * 2.0**-24)
    beta = (2 * ROUNDOFF + ROUNDOFF**2 + accumulation) * weights.W_enc.norm(dim=1) * (1 + SLACK)
    offsets, features, n_before = [torch.zeros(1, dtype=torch.int32)], [], 0
    for block in centred.split(ROWS_AT_ONCE):
        t = -weights.b_enc - beta * block.norm(dim=1).max() - SLACK
        t = (t - 2.1 * ROUNDOFF * t.abs()).bfloat16()
        candidates = torch.mm(block.bfloat16(), W_enc.T).gt(t).to_sparse_csr()
        offsets.append(candidates.crow_indices()[1:].int() + n_before)
        features.append(candidates.col_indices().int())
        n_before += features[-1].numel()
    return torch.cat(offsets), torch.cat(features)


def encode_screened(weights: Weights, centred: Rows) -> Csr:
    """The active entries of f: candidates from a bfloat16 product, evaluated in float32."""
    offsets, features = screen(weights, centred)
    shape = (len(centred), len(weights.W_enc))
    pattern = torch.sparse_csr_tensor(offsets, features, torch.zeros(len(features)), shape, check_invariants=False)
    f = torch.sparse.sampled_addmm(pattern, centred, weights.W_enc.T, beta=0.0).values()
    f += weights.b_enc[features]
    active = f > 0
    kept = torch.zeros(len(active) + 1, dtype=torch.int32)
    torch.cumsum(active, 0, dtype=torch.int32, out=kept[1:])
    return kept[offsets], features[active], f[active]


@torch.no_grad()
def sparse_step(weights: Weights, x: Rows, l1_coefficient: float) -> StepResult:
    """Loss parts and gradients for the batch `x`; see `gradients` for the formulas."""
    W_enc, _, W_dec, b_dec = weights
    n_rows, shape = x.shape[0], (x.shape[0], W_enc.shape[0])
    centred = x - b_dec
    encode = encode_screened if multiplies_bfloat16() else encode_plain
    offsets, features, f = encode(weights, centred)
    n_fired = torch.bincount(features, minlength=shape[1])
    error = F.embedding_bag(features, W_dec, offsets[:-1], mode="sum", per_sample_weights=f).add_(b_dec).sub_(x)
    squared_error = error.square().sum() / n_rows
    g = error.mul_(2 / n_rows)
    pattern = torch.sparse_csr_tensor(offsets, features, torch.zeros_like(f), shape, check_invariants=False)
    d = torch.sparse.sampled_addmm(pattern, g, W_dec.T, beta=0.0).values().add_(l1_coefficient / n_rows)

    order = torch.argsort(features, stable=True)
    rows = torch.repeat_interleave(torch.arange(n_rows, dtype=torch.int32), offsets.diff())[order]
    starts = torch.cumsum(n_fired, 0).sub_(n_fired).int()
    grad_b_enc = torch.zeros_like(weights.b_enc).index_add_(0, features, d)
    gradients = Weights(
        W_enc=F.embedding_bag(rows, centred, starts, mode="sum", per_sample_weights=d[order]),
        b_enc=grad_b_enc,
        W_dec=F.embedding_bag(rows, g, starts, mode="sum", per_sample_weights=f[order]),
        b_dec=g.sum(0) - grad_b_enc @ W_enc,
    )
    return StepResult(gradients, squared_error, f.sum() / n_rows, n_fired)
