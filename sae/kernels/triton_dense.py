"""The dense step's products with their epilogues, for batches whose active entries do not fit the sparse lists.

Every kernel returns at once when they do fit (cursor ≤ capacity), so that both paths can stand in one CUDA graph and the
batch decides on the device. Rows are taken in blocks, so that the two [row, feature] buffers stay bounded; gradients add up
over the blocks, always in the same order. A fixed number of programs take tiles in turn: where the path is not taken,
a launch is that many early returns and not one for each tile.
"""

from __future__ import annotations

from sae.kernels.triton_door import jit, tl
from sae.kernels.triton_tiles import product, rounded


@jit
def dense_encode_kernel(
    seen, W_enc16, b_enc, norms, f16, feature_counts, tile_f, sums, slots, cursor, capacity, first_row, n_block, n_row_tiles,
    n_features, d_mlp, WEIGHTED: tl.constexpr, ROWS: tl.constexpr, FEATURES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """f of `n_block` rows from `first_row` (a multiple of ROWS) on, [row of the block, feature] bfloat16, with its sums."""
    if tl.load(cursor) > capacity:
        tiles_down = tl.cdiv(n_block, ROWS)
        l1 = tl.zeros((1,), tl.float64)
        squares = tl.zeros((1,), tl.float64)
        for tile in range(tl.program_id(0), tiles_down * tl.cdiv(n_features, FEATURES), tl.num_programs(0)):
            row_tile = tile % tiles_down
            rows = row_tile * ROWS + tl.arange(0, ROWS)
            features = (tile // tiles_down) * FEATURES + tl.arange(0, FEATURES)
            here = features < n_features
            block = seen + first_row.to(tl.int64) * d_mlp
            f = product(block, d_mlp, 1, W_enc16, d_mlp, 1, rows, features, n_block, n_features, d_mlp, ROWS, FEATURES, DEPTH)
            f += tl.load(b_enc + features, mask=here, other=0.0)[None, :]
            active = ((f <= 0) == 0) & (rows < n_block)[:, None] & here[None, :]
            f = tl.where(active, f, 0.0)
            at = rows[:, None].to(tl.int64) * n_features + features[None, :]
            tl.store(f16 + at, rounded(f), mask=(rows < n_block)[:, None] & here[None, :])
            of_tile = features.to(tl.int64) * n_row_tiles + first_row // ROWS + row_tile
            column = tl.sum(f, 0)
            tl.store(tile_f + of_tile, column, mask=here)
            tl.store(feature_counts + of_tile, tl.sum(active.to(tl.int32), 0), mask=here)
            if WEIGHTED:
                column *= tl.load(norms + features, mask=here, other=0.0)
            l1 += tl.sum(column.to(tl.float64))
            exact = tl.sum(f * f, 0).to(tl.float64)
            squares += tl.sum(exact)
        slot = tl.program_id(0) + tl.arange(0, 1)
        tl.store(sums + slots + slot, tl.load(sums + slots + slot) + l1)
        tl.store(sums + 2 * slots + slot, tl.load(sums + 2 * slots + slot) + squares)


@jit
def dense_decode_kernel(
    f16, W_dec16, b_dec, x, g, sums, slots, cursor, capacity, first_row, n_block, n_rows, n_features, d_mlp,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """g of the block's rows, bfloat16, and the sums of squares of the error and of g."""
    if tl.load(cursor) > capacity:
        tiles_down = tl.cdiv(n_block, ROWS)
        squares = tl.zeros((1,), tl.float64)
        squares_g = tl.zeros((1,), tl.float64)
        for tile in range(tl.program_id(0), tiles_down * tl.cdiv(d_mlp, COLUMNS), tl.num_programs(0)):
            rows = (tile % tiles_down) * ROWS + tl.arange(0, ROWS)
            columns = (tile // tiles_down) * COLUMNS + tl.arange(0, COLUMNS)
            here = columns < d_mlp
            mask = (rows < n_block)[:, None] & here[None, :]
            error = product(
                f16, n_features, 1, W_dec16, 1, d_mlp, rows, columns, n_block, d_mlp, n_features, ROWS, COLUMNS, DEPTH
            )
            at = (first_row + rows)[:, None].to(tl.int64) * d_mlp + columns[None, :]
            error += tl.load(b_dec + columns, mask=here, other=0.0)[None, :] - tl.load(x + at, mask=mask, other=0.0).to(
                tl.float32
            )
            error = tl.where(mask, error, 0.0)
            gradient = error * (2.0 / n_rows)
            tl.store(g + at, rounded(gradient), mask=mask)
            squares += tl.sum(tl.sum(error * error, 0).to(tl.float64))
            squares_g += tl.sum(tl.sum(gradient * gradient, 0).to(tl.float64))
        slot = tl.program_id(0) + tl.arange(0, 1)
        tl.store(sums + slot, tl.load(sums + slot) + squares)
        tl.store(sums + 3 * slots + slot, tl.load(sums + 3 * slots + slot) + squares_g)


@jit
def dense_back_kernel(
    g, W_dec16, norms, controls, f16, d16, tile_d, sums, slots, cursor, capacity, first_row, n_block, n_row_tiles, n_rows,
    n_features, d_mlp, WEIGHTED: tl.constexpr, ROWS: tl.constexpr, FEATURES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """d of the block's rows, [row of the block, feature] bfloat16, and its sums."""
    if tl.load(cursor) > capacity:
        tiles_down = tl.cdiv(n_block, ROWS)
        squares = tl.zeros((1,), tl.float64)
        penalty = (tl.load(controls) / n_rows).to(tl.float32)
        for tile in range(tl.program_id(0), tiles_down * tl.cdiv(n_features, FEATURES), tl.num_programs(0)):
            row_tile = tile % tiles_down
            rows = row_tile * ROWS + tl.arange(0, ROWS)
            features = (tile // tiles_down) * FEATURES + tl.arange(0, FEATURES)
            here = features < n_features
            mask = (rows < n_block)[:, None] & here[None, :]
            block = g + first_row.to(tl.int64) * d_mlp
            d = product(block, d_mlp, 1, W_dec16, d_mlp, 1, rows, features, n_block, n_features, d_mlp, ROWS, FEATURES, DEPTH)
            if WEIGHTED:
                d += (penalty * tl.load(norms + features, mask=here, other=0.0))[None, :]
            else:
                d += penalty
            at = rows[:, None].to(tl.int64) * n_features + features[None, :]
            d = tl.where(tl.load(f16 + at, mask=mask, other=0.0).to(tl.float32) > 0, d, 0.0)
            tl.store(d16 + at, rounded(d), mask=mask)
            of_tile = features.to(tl.int64) * n_row_tiles + first_row // ROWS + row_tile
            tl.store(tile_d + of_tile, tl.sum(d, 0), mask=here)
            squares += tl.sum(tl.sum(d * d, 0).to(tl.float64))
        slot = tl.program_id(0) + tl.arange(0, 1)
        tl.store(sums + 4 * slots + slot, tl.load(sums + 4 * slots + slot) + squares)


@jit
def dense_weights_kernel(
    left, right, G, cursor, capacity, n_block, n_features, d_mlp, FIRST: tl.constexpr,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """G [feature, d_mlp] (+)= leftᵀ right over the block's rows: d16ᵀ x̄, or f16ᵀ g. FIRST: the block that overwrites."""
    if tl.load(cursor) > capacity:
        tiles_down = tl.cdiv(n_features, FEATURES)
        for tile in range(tl.program_id(0), tiles_down * tl.cdiv(d_mlp, COLUMNS), tl.num_programs(0)):
            features = (tile % tiles_down) * FEATURES + tl.arange(0, FEATURES)
            columns = (tile // tiles_down) * COLUMNS + tl.arange(0, COLUMNS)
            total = product(
                left, 1, n_features, right, 1, d_mlp, features, columns, n_features, d_mlp, n_block, FEATURES, COLUMNS, DEPTH
            )  # fmt: skip
            at = features[:, None].to(tl.int64) * d_mlp + columns[None, :]
            mask = (features < n_features)[:, None] & (columns < d_mlp)[None, :]
            if not FIRST:
                total += tl.load(G + at, mask=mask, other=0.0)
            tl.store(G + at, total, mask=mask)
