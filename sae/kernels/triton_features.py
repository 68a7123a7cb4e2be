"""A feature's gradients and its update, in one pass over its rows of the weights; no gradient is written to memory.

`sparse_features_kernel` gathers the gradients from the feature's list; `dense_features_kernel` reads those that the dense
products wrote. MEASURE: Σ of the gradients' squares and the feature's part of ∂b_dec go to the program's slots. MOVE: the
weights are updated. Without clipping one pass does both; with clipping a first pass measures, `finish_kernel` turns the norm
into a factor, and a second pass gathers again and moves (gathering twice costs what writing and reading a gradient would, on
paper, and no memory).

Programs take features in turn, pid, pid + n_programs, ...: each slot's sum has one order.
"""

from __future__ import annotations

from sae.kernels.triton_door import jit, tl
from sae.kernels.triton_update import move_decoder, move_encoder, move_entry


@jit
def settle_feature(
    feature, d_mlp, from_f, g_enc, g_b, g_dec, controls, gate, n_rows,
    W_enc, b_enc, W_dec, first_W_enc, first_b_enc, first_W_dec, second_W_enc, second_b_enc, second_W_dec, W_enc16, W_dec16, norms,
    TIED: tl.constexpr, WEIGHTED: tl.constexpr, MEASURE: tl.constexpr, MOVE: tl.constexpr, BETA1: tl.constexpr,
    BETA2: tl.constexpr, EPS: tl.constexpr, UNIT: tl.constexpr, BEFORE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Measure and move one feature, given its gradients; `from_f` is Σ_rows f.

    Returns Σ of the gradients' squares, the feature's row of ∂b_enc W_enc, Σ of the new W_enc row's squares."""
    at = tl.arange(0, WIDTH)
    inside = at < d_mlp
    row = tl.cast(feature, tl.int64) * d_mlp + at
    encoder = tl.load(W_enc + row, mask=inside, other=0.0)
    decoder = tl.load(W_dec + row, mask=inside, other=0.0)
    if WEIGHTED:
        penalty = (tl.load(controls) / n_rows).to(tl.float32)
        g_dec += penalty * (from_f / tl.maximum(tl.load(norms + feature), 1e-30)) * decoder
    squares = 0.0
    encoder_squares = 0.0
    from_bias = g_b * encoder
    if MEASURE:
        exact_enc = g_enc.to(tl.float64)
        exact_dec = g_dec.to(tl.float64)
        exact_b = g_b.to(tl.float64)
        squares = tl.sum(exact_enc * exact_enc) + tl.sum(exact_dec * exact_dec) + exact_b * exact_b
    if MOVE:
        step = tl.load(gate + 1).to(tl.float32)
        root = tl.load(gate + 2).to(tl.float32)
        factor = tl.load(gate + 3).to(tl.float32)
        encoder_squares = move_encoder(
            row, inside, g_enc * factor, encoder, W_enc, first_W_enc, second_W_enc, W_enc16, step, root, BETA1, BETA2, EPS
        )  # fmt: skip
        move_entry(feature, g_b * factor, b_enc, first_b_enc, second_b_enc, step, root, BETA1, BETA2, EPS)
        norm = move_decoder(
            row, inside, g_dec * factor, decoder, W_dec, first_W_dec, second_W_dec, W_dec16, step, root,
            BETA1, BETA2, EPS, UNIT, BEFORE,
        )  # fmt: skip
        tl.store(norms + feature, norm)
    return squares, from_bias, encoder_squares


@jit
def sparse_features_kernel(
    seen, g, cursor, feature_counts, feature_ends, slot_rows, slot_values, slot_d, capacity, n_row_tiles, controls, gate,
    norm_squares, encoder_sums, encoder_squares, n_rows, n_features, d_mlp, n_programs,
    W_enc, b_enc, W_dec, first_W_enc, first_b_enc, first_W_dec, second_W_enc, second_b_enc, second_W_dec, W_enc16, W_dec16, norms,
    TIED: tl.constexpr, WEIGHTED: tl.constexpr, MEASURE: tl.constexpr, MOVE: tl.constexpr, BETA1: tl.constexpr,
    BETA2: tl.constexpr, EPS: tl.constexpr, UNIT: tl.constexpr, BEFORE: tl.constexpr, WIDTH: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Gradients from the lists by feature: Σ over the feature's rows of d x̄, d and f g."""
    if (tl.load(cursor) <= capacity) & (tl.load(gate) > 0):
        program = tl.program_id(0)
        at = tl.arange(0, WIDTH)
        inside = at < d_mlp
        squares = tl.zeros((1,), tl.float64)
        new_squares = tl.zeros((1,), tl.float64)
        from_bias = tl.zeros((WIDTH,), tl.float32)
        for feature in range(program, n_features, n_programs):
            tiles = tl.cast(feature, tl.int64) * n_row_tiles
            first = tl.load(feature_ends + tiles) - tl.load(feature_counts + tiles)
            last = tl.load(feature_ends + tiles + n_row_tiles - 1)
            g_enc = tl.zeros((WIDTH,), tl.float32)
            g_dec = tl.zeros((WIDTH,), tl.float32)
            all_d = tl.zeros((AT_ONCE,), tl.float32)
            all_f = tl.zeros((AT_ONCE,), tl.float32)
            for start in range(first, last, AT_ONCE):
                slot = start + tl.arange(0, AT_ONCE)
                listed = slot < last
                row = tl.load(slot_rows + slot, mask=listed, other=0).to(tl.int64)
                f = tl.load(slot_values + slot, mask=listed, other=0.0)
                d = tl.load(slot_d + slot, mask=listed, other=0.0)
                mask = listed[:, None] & inside[None, :]
                entries = row[:, None] * d_mlp + at[None, :]
                g_enc += tl.sum(d[:, None] * tl.load(seen + entries, mask=mask, other=0.0).to(tl.float32), 0)
                g_dec += tl.sum(f[:, None] * tl.load(g + entries, mask=mask, other=0.0).to(tl.float32), 0)
                all_d += d
                all_f += f
            settled = settle_feature(
                feature, d_mlp, tl.sum(all_f), g_enc, tl.sum(all_d), g_dec, controls, gate, n_rows,
                W_enc, b_enc, W_dec, first_W_enc, first_b_enc, first_W_dec, second_W_enc, second_b_enc, second_W_dec,
                W_enc16, W_dec16, norms,
                TIED, WEIGHTED, MEASURE, MOVE, BETA1, BETA2, EPS, UNIT, BEFORE, WIDTH,
            )  # fmt: skip
            squares += settled[0]
            from_bias += settled[1]
            new_squares += settled[2]
        if MEASURE:
            tl.store(norm_squares + program + tl.arange(0, 1), squares)
            tl.store(encoder_sums + program * d_mlp + at, from_bias, mask=inside)
        if MOVE:
            tl.store(encoder_squares + program + tl.arange(0, 1), new_squares)


@jit
def dense_features_kernel(
    G_enc, G_dec, tile_f, tile_d, cursor, capacity, n_row_tiles, controls, gate,
    norm_squares, encoder_sums, encoder_squares, n_rows, n_features, d_mlp, n_programs,
    W_enc, b_enc, W_dec, first_W_enc, first_b_enc, first_W_dec, second_W_enc, second_b_enc, second_W_dec, W_enc16, W_dec16, norms,
    TIED: tl.constexpr, WEIGHTED: tl.constexpr, MEASURE: tl.constexpr, MOVE: tl.constexpr, BETA1: tl.constexpr,
    BETA2: tl.constexpr, EPS: tl.constexpr, UNIT: tl.constexpr, BEFORE: tl.constexpr, WIDTH: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Gradients from G_enc, G_dec [feature, d_mlp] and from the sums of f and d over each row tile [feature, row tile]."""
    if (tl.load(cursor) > capacity) & (tl.load(gate) > 0):
        program = tl.program_id(0)
        at = tl.arange(0, WIDTH)
        inside = at < d_mlp
        tiles = tl.arange(0, TILES)
        squares = tl.zeros((1,), tl.float64)
        new_squares = tl.zeros((1,), tl.float64)
        from_bias = tl.zeros((WIDTH,), tl.float32)
        for feature in range(program, n_features, n_programs):
            row = tl.cast(feature, tl.int64) * d_mlp + at
            sums_at = tl.cast(feature, tl.int64) * n_row_tiles + tiles
            settled = settle_feature(
                feature, d_mlp, tl.sum(tl.load(tile_f + sums_at, mask=tiles < n_row_tiles, other=0.0)),
                tl.load(G_enc + row, mask=inside, other=0.0),
                tl.sum(tl.load(tile_d + sums_at, mask=tiles < n_row_tiles, other=0.0)),
                tl.load(G_dec + row, mask=inside, other=0.0), controls, gate, n_rows,
                W_enc, b_enc, W_dec, first_W_enc, first_b_enc, first_W_dec, second_W_enc, second_b_enc, second_W_dec,
                W_enc16, W_dec16, norms,
                TIED, WEIGHTED, MEASURE, MOVE, BETA1, BETA2, EPS, UNIT, BEFORE, WIDTH,
            )  # fmt: skip
            squares += settled[0]
            from_bias += settled[1]
            new_squares += settled[2]
        if MEASURE:
            tl.store(norm_squares + program + tl.arange(0, 1), squares)
            tl.store(encoder_sums + program * d_mlp + at, from_bias, mask=inside)
        if MOVE:
            tl.store(encoder_squares + program + tl.arange(0, 1), new_squares)
