"""Whether to update, by how much, and the update of one feature's rows, fused.

`gate` is float64 [8]: 0 finite (1 or 0)   1 lr / (1 − β₁ᵗ)   2 √(1 − β₂ᵗ)   3 factor of the gradient's clipping.
`results` is float64 [4]: squared error and L1 (means over rows), gradient norm, finite.
`controls` is float64 [2]: λ, learning rate. `count` is int64 [1]: updates applied so far.

A feature's rows are updated as soon as their gradients are known, so whether *all* gradients are finite has to be known
before any is computed. By Cauchy-Schwarz an entry of ∂W_dec, and every partial sum on the way to it, is at most √(Σf² Σg²), one
of ∂W_enc at most √(Σd² Σx̄²), one of ∂b_enc at most √(B Σd²), one of ∂b_dec at most √(B Σg²) + √(B Σd² ΣW_enc²): the sums are
taken over the whole batch in float64, and each bound must stay under a quarter of float32's largest number. NaN or infinity
in x, f, g or d fails the same comparisons. Gradients that are finite but whose bound is above 8e37 stop the step as well.
"""

from __future__ import annotations

from sae.kernels.triton_door import jit, tl
from sae.kernels.triton_tiles import rounded


@jit
def gate_kernel(
    totals, encoder_squares, controls, count, gate, results, n_rows,
    BETA1: tl.constexpr, BETA2: tl.constexpr, LOG_BETA1: tl.constexpr, LOG_BETA2: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """One program, once all of the batch's sums are known. `totals` is float64 [6], see `triton_rows`."""
    largest = 8.5e37
    n = tl.full((), 0.0, tl.float64) + n_rows
    squared_error = tl.load(totals) / n
    l1 = tl.load(totals + 1) / n
    f = tl.load(totals + 2)
    g = tl.load(totals + 3)
    d = tl.load(totals + 4)
    seen = tl.load(totals + 5)
    W_enc = tl.sum(tl.load(encoder_squares + tl.arange(0, PROGRAMS)))
    finite = (squared_error < largest) & (l1 < largest) & (tl.load(controls) * l1 < largest)
    finite = finite & (tl.sqrt(f * g) < largest) & (tl.sqrt(d * seen) < largest)
    finite = finite & (tl.sqrt(n * d) < largest) & (tl.sqrt(n * g) + tl.sqrt(n * d * W_enc) < largest)
    tl.store(gate, finite.to(tl.float64))
    t = (tl.load(count) + 1).to(tl.float64)
    # β constants folded by Python in float64; exp of t log β is a function of t alone, so a resumed run has the same bits
    tl.store(gate + 1, tl.load(controls + 1) / (1.0 - tl.exp(t * LOG_BETA1) if BETA1 > 0 else 1.0))
    tl.store(gate + 2, tl.sqrt(1.0 - tl.exp(t * LOG_BETA2) if BETA2 > 0 else 1.0))
    tl.store(gate + 3, 1.0)
    tl.store(results, squared_error)
    tl.store(results + 1, l1)
    tl.store(results + 3, finite.to(tl.float64))


@jit
def adam(weight, gradient, first, second, step, root, BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr):
    """Adam's weight and moments after one gradient (Kingma & Ba 2015), in PyTorch's order of operations."""
    first = first * BETA1 + gradient * (1 - BETA1)
    second = second * BETA2 + gradient * gradient * (1 - BETA2)
    return weight - step * first / (tl.sqrt(second) / root + EPS), first, second


@jit
def move_entry(at, gradient, weight, first, second, step, root, BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr):
    """Adam on the single entry `at` of a vector."""
    moved = adam(
        tl.load(weight + at), gradient, tl.load(first + at), tl.load(second + at), step, root, BETA1, BETA2, EPS
    )  # fmt: skip
    tl.store(weight + at, moved[0])
    tl.store(first + at, moved[1])
    tl.store(second + at, moved[2])


@jit
def move_encoder(
    row, inside, gradient, W, W_enc, first, second, W_enc16, step, root,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Adam on one row of W_enc (held in `W`) with its bfloat16 copy; returns Σ of the new row's squares, float64."""
    moved = adam(
        W, gradient, tl.load(first + row, mask=inside, other=0.0), tl.load(second + row, mask=inside, other=0.0),
        step, root, BETA1, BETA2, EPS,
    )  # fmt: skip
    tl.store(W_enc + row, moved[0], mask=inside)
    tl.store(first + row, moved[1], mask=inside)
    tl.store(second + row, moved[2], mask=inside)
    tl.store(W_enc16 + row, rounded(moved[0]), mask=inside)
    exact = tl.where(inside, moved[0], 0.0).to(tl.float64)
    return tl.sum(exact * exact)


@jit
def move_decoder(
    row, inside, gradient, W, W_dec, first, second, W_dec16, step, root,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, UNIT: tl.constexpr, BEFORE: tl.constexpr,
):  # fmt: skip
    """Normalising, projection, Adam and bfloat16 copy of one row of W_dec (held in `W`), in the order of `UpdateRule`;
    returns the new row's norm."""
    if UNIT:
        if BEFORE:
            W = W / tl.sqrt(tl.sum(W * W))
        gradient = gradient - tl.sum(gradient * W) * W
    moved = adam(
        W, gradient, tl.load(first + row, mask=inside, other=0.0), tl.load(second + row, mask=inside, other=0.0),
        step, root, BETA1, BETA2, EPS,
    )  # fmt: skip
    W = tl.where(inside, moved[0], 0.0)
    norm = tl.sqrt(tl.sum(W * W))
    if UNIT and not BEFORE:
        W = W / norm
        norm = tl.sqrt(tl.sum(W * W))
    tl.store(W_dec + row, W, mask=inside)
    tl.store(first + row, moved[1], mask=inside)
    tl.store(second + row, moved[2], mask=inside)
    tl.store(W_dec16 + row, rounded(W), mask=inside)
    return norm


@jit
def bias_kernel(
    column_sums, encoder_sums, gradient_b_dec, n_column_sums, n_programs, d_mlp,
    TIED: tl.constexpr, AT_ONCE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """∂b_dec = Σ_rows g (− ∂b_enc W_enc where tied), for COLUMNS entries, from the partial sums over rows and over features."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, n_column_sums, AT_ONCE):
        at = start + tl.arange(0, AT_ONCE)
        mask = (at < n_column_sums)[:, None] & (columns < d_mlp)[None, :]
        total += tl.sum(tl.load(column_sums + at[:, None] * d_mlp + columns[None, :], mask=mask, other=0.0), 0)
    if TIED:
        for start in range(0, n_programs, AT_ONCE):
            at = start + tl.arange(0, AT_ONCE)
            mask = (at < n_programs)[:, None] & (columns < d_mlp)[None, :]
            total -= tl.sum(tl.load(encoder_sums + at[:, None] * d_mlp + columns[None, :], mask=mask, other=0.0), 0)
    tl.store(gradient_b_dec + columns, total, mask=columns < d_mlp)


@jit
def finish_kernel(
    gate, results, norm_squares, gradient_b_dec, b_dec, first_b_dec, second_b_dec, count, d_mlp, limit,
    CLIPPED: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr,
    PROGRAMS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program: the gradient's norm, the clipping factor, b_dec's update, and the count of updates."""
    at = tl.arange(0, WIDTH)
    inside = at < d_mlp
    g = tl.load(gradient_b_dec + at, mask=inside, other=0.0)
    exact = g.to(tl.float64)
    norm = tl.sqrt(tl.sum(tl.load(norm_squares + tl.arange(0, PROGRAMS))) + tl.sum(exact * exact))
    finite = tl.load(gate) > 0
    tl.store(results + 2, tl.where(finite, norm, float("nan")))
    if finite:
        factor = norm * 0 + 1
        if CLIPPED:
            factor = tl.minimum(limit / tl.maximum(norm, 1e-30), 1.0)
            tl.store(gate + 3, factor)
        step = tl.load(gate + 1).to(tl.float32)
        root = tl.load(gate + 2).to(tl.float32)
        moved = adam(
            tl.load(b_dec + at, mask=inside, other=0.0), g * factor.to(tl.float32),
            tl.load(first_b_dec + at, mask=inside, other=0.0), tl.load(second_b_dec + at, mask=inside, other=0.0),
            step, root, BETA1, BETA2, EPS,
        )  # fmt: skip
        tl.store(b_dec + at, moved[0], mask=inside)
        tl.store(first_b_dec + at, moved[1], mask=inside)
        tl.store(second_b_dec + at, moved[2], mask=inside)
        tl.store(count, tl.load(count) + 1)
