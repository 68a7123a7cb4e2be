"""What a row's active entries give: reconstruction, error, and the features' gradients; and sums over all rows.

`sums` is float64 [6, slots], zero at the start of a step; a program adds into its own slot, so no order of arrival matters:
0 Σ (x − x̂)²   1 Σ c f   2 Σ f²   3 Σ g²   4 Σ d²   5 Σ x̄². The last four bound every gradient (see `triton_update`).
"""

from __future__ import annotations

from sae.kernels.triton_door import jit, tl
from sae.kernels.triton_tiles import rounded


@jit
def rows_kernel(
    x, W_dec16, norms, b_dec, controls, cursor, row_counts, row_ends, list_features, list_values, list_slots, g, slot_d,
    sums, slots, capacity, n_rows, n_feature_tiles, d_mlp,
    WEIGHTED: tl.constexpr, WIDTH: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """One program a row. x̂ stays in registers; g goes out in bfloat16, d (float32) into the lists by feature."""
    if tl.load(cursor) <= capacity:
        row = tl.program_id(0)
        tiles = row.to(tl.int64) * n_feature_tiles
        first = tl.load(row_ends + tiles) - tl.load(row_counts + tiles)
        last = tl.load(row_ends + tiles + n_feature_tiles - 1)
        at = tl.arange(0, WIDTH)
        inside = at < d_mlp
        error = tl.load(b_dec + at, mask=inside, other=0.0)
        error -= tl.load(x + row.to(tl.int64) * d_mlp + at, mask=inside, other=0.0).to(tl.float32)
        l1 = tl.zeros((AT_ONCE,), tl.float64)
        squares_f = tl.zeros((AT_ONCE,), tl.float64)
        for start in range(first, last, AT_ONCE):
            entry = start + tl.arange(0, AT_ONCE)
            listed = entry < last
            feature = tl.load(list_features + entry, mask=listed, other=0).to(tl.int64)
            f = tl.load(list_values + entry, mask=listed, other=0.0)
            directions = W_dec16 + feature[:, None] * d_mlp + at[None, :]
            W = tl.load(directions, mask=listed[:, None] & inside[None, :], other=0.0).to(tl.float32)
            error += tl.sum(f[:, None] * W, 0)
            exact = f.to(tl.float64)
            squares_f += exact * exact
            if WEIGHTED:
                exact *= tl.load(norms + feature, mask=listed, other=0.0).to(tl.float64)
            l1 += exact
        gradient = error * (2.0 / n_rows)
        tl.store(g + row.to(tl.int64) * d_mlp + at, rounded(gradient), mask=inside)
        penalty = (tl.load(controls) / n_rows).to(tl.float32)
        squares_d = tl.zeros((AT_ONCE,), tl.float64)
        for start in range(first, last, AT_ONCE):
            entry = start + tl.arange(0, AT_ONCE)
            listed = entry < last
            feature = tl.load(list_features + entry, mask=listed, other=0).to(tl.int64)
            directions = W_dec16 + feature[:, None] * d_mlp + at[None, :]
            W = tl.load(directions, mask=listed[:, None] & inside[None, :], other=0.0).to(tl.float32)
            d = tl.sum(W * gradient[None, :], 1)
            if WEIGHTED:
                d += penalty * tl.load(norms + feature, mask=listed, other=0.0)
            else:
                d += penalty
            tl.store(slot_d + tl.load(list_slots + entry, mask=listed, other=0), d, mask=listed)
            exact = tl.where(listed, d, 0.0).to(tl.float64)
            squares_d += exact * exact
        exact_error = error.to(tl.float64)
        exact_g = gradient.to(tl.float64)
        tl.store(sums + row, tl.sum(exact_error * exact_error))
        tl.store(sums + slots + row, tl.sum(l1))
        tl.store(sums + 2 * slots + row, tl.sum(squares_f))
        tl.store(sums + 3 * slots + row, tl.sum(exact_g * exact_g))
        tl.store(sums + 4 * slots + row, tl.sum(squares_d))


@jit
def columns_kernel(g, column_sums, n_rows, d_mlp, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Σ of g over ROWS rows: column_sums [row block, d_mlp], float32. Part of b_dec's gradient."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    values = tl.load(
        g + rows[:, None].to(tl.int64) * d_mlp + columns[None, :],
        mask=(rows < n_rows)[:, None] & (columns < d_mlp)[None, :], other=0.0,
    )  # fmt: skip
    tl.store(column_sums + tl.program_id(0) * d_mlp + columns, tl.sum(values.to(tl.float32), 0), mask=columns < d_mlp)
