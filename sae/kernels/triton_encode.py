"""From rows to lists of active entries, without a [row, feature] buffer.

Three kernels with two prefix sums (torch.cumsum over integers) between the second and the third:

1. `centre_kernel`: x̄ in bfloat16.
2. `encode_kernel`: a tile of W_enc x̄ + b_enc with ReLU, compaction and counts in the product's epilogue. A tile's active
   entries go to a pool, at a place reserved by one atomic addition a tile. Only the *place in the pool* depends on the order
   in which tiles finish; each entry carries its rank among the tile's entries of the same row and of the same feature.
3. `place_kernel`: from the pool to the lists by row and by feature. An entry's position is the prefix sum of the counts plus
   its rank, so both lists come out the same on every run, in ascending order of feature and of row.

The pool and the lists hold `capacity` entries. The atomic cursor ends as the exact number of active entries, whether they
fitted or not; where they did not, every sparse kernel returns at once and the dense ones do the step (see `cuda`).
"""

from __future__ import annotations

from sae.kernels.triton_door import jit, tl
from sae.kernels.triton_tiles import product, rounded


@jit
def centre_kernel(x, b_dec, seen, sums, slots, d_mlp, TIED: tl.constexpr, WIDTH: tl.constexpr):
    """One program a row: seen[row] = x − b_dec (or x) in bfloat16, and Σ_d seen² (float64) into row 5 of `sums`."""
    row = tl.program_id(0)
    at = tl.arange(0, WIDTH)
    inside = at < d_mlp
    values = tl.load(x + row.to(tl.int64) * d_mlp + at, mask=inside, other=0.0).to(tl.float32)
    if TIED:
        values -= tl.load(b_dec + at, mask=inside, other=0.0)
    kept = rounded(values)
    tl.store(seen + row.to(tl.int64) * d_mlp + at, kept, mask=inside)
    exact = kept.to(tl.float32).to(tl.float64)
    tl.store(sums + 5 * slots + row, tl.sum(exact * exact))


@jit
def halves(f, ROWS: tl.constexpr, HALF: tl.constexpr):
    """The left and the right half of the columns of `f`; in registers, each thread keeps what it has."""
    return tl.split(tl.permute(tl.reshape(f, (ROWS, 2, HALF)), (0, 2, 1)))


@jit
def list_tile(
    f, row_tile, feature_tile, b_enc, cursor, pool_keys, pool_values, tile_base, tile_size, row_counts, feature_counts,
    capacity, n_rows, n_features, ROWS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """Bias, ReLU, counts and compaction of one tile of W_enc x̄. NaN counts as active: it must reach the loss."""
    n_row_tiles = tl.cdiv(n_rows, ROWS)
    n_feature_tiles = tl.cdiv(n_features, FEATURES)
    tile = feature_tile * n_row_tiles + row_tile
    local_row = tl.arange(0, ROWS)
    local_feature = tl.arange(0, FEATURES)
    rows = row_tile * ROWS + local_row
    features = feature_tile * FEATURES + local_feature
    f += tl.load(b_enc + features, mask=features < n_features, other=0.0)[None, :]
    active = ((f <= 0) == 0) & (rows < n_rows)[:, None] & (features < n_features)[None, :]
    ones = active.to(tl.int32)
    in_row = tl.sum(ones, 1)
    listed = feature_tile < n_feature_tiles
    counts_at = row_counts + rows.to(tl.int64) * n_feature_tiles + feature_tile
    tl.store(counts_at, in_row, mask=(rows < n_rows) & listed)
    counts_at = feature_counts + features.to(tl.int64) * n_row_tiles + row_tile
    tl.store(counts_at, tl.sum(ones, 0), mask=features < n_features)
    size = tl.sum(in_row)
    tl.store(tile_size + tile, size, mask=listed)
    if size > 0:
        base = tl.atomic_add(cursor, size.to(tl.int64))
        tl.store(tile_base + tile, base)
        room = tl.minimum(tl.maximum(capacity - base, 0), ROWS * FEATURES).to(tl.int32)
        rank = tl.cumsum(ones, 1) - ones
        place = (tl.cumsum(in_row, 0) - in_row)[:, None] + rank
        tl.store(pool_values + base + place, f, mask=active & (place < room))
        key = (rank * ROWS + local_row[:, None]) * FEATURES + local_feature[None, :]
        key += (tl.cumsum(ones, 0) - ones) * (FEATURES * ROWS * FEATURES)
        tl.store(pool_keys + base + place, key, mask=active & (place < room))


@jit
def encode_kernel(
    seen, W_enc16, b_enc, cursor, pool_keys, pool_values, tile_base, tile_size, row_counts, feature_counts, capacity,
    n_rows, n_features, d_mlp, ROWS: tl.constexpr, FEATURES: tl.constexpr, PARTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One program a product of ROWS rows and PARTS tiles of FEATURES (the product wants a wide tile, its epilogue the
    registers), row tiles fastest, so that a tile of W_enc is read from memory once and then from L2.

    row_counts [row, feature tile], feature_counts [feature, row tile], int32."""
    n_row_tiles = tl.cdiv(n_rows, ROWS)
    row_tile = tl.program_id(0) % n_row_tiles
    first = (tl.program_id(0) // n_row_tiles) * PARTS
    WIDE: tl.constexpr = FEATURES * PARTS
    rows = row_tile * ROWS + tl.arange(0, ROWS)
    features = first * FEATURES + tl.arange(0, WIDE)
    f = product(seen, d_mlp, 1, W_enc16, d_mlp, 1, rows, features, n_rows, n_features, d_mlp, ROWS, WIDE, DEPTH)
    if PARTS == 1:
        parts = (f,)
    elif PARTS == 2:
        parts = halves(f, ROWS, FEATURES)
    else:
        tl.static_assert(PARTS == 4)
        left, right = halves(f, ROWS, 2 * FEATURES)
        parts = halves(left, ROWS, FEATURES) + halves(right, ROWS, FEATURES)
    for part in tl.static_range(PARTS):
        list_tile(
            parts[part], row_tile, first + part, b_enc, cursor, pool_keys, pool_values, tile_base, tile_size,
            row_counts, feature_counts, capacity, n_rows, n_features, ROWS, FEATURES,
        )  # fmt: skip


@jit
def place_kernel(
    cursor, pool_keys, pool_values, tile_base, tile_size, row_counts, row_ends, feature_counts, feature_ends,
    list_features, list_values, list_slots, slot_rows, slot_values, capacity, n_rows, n_features,
    ROWS: tl.constexpr, FEATURES: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """One program a tile: its entries to the lists by row (feature, value, slot in the other) and by feature (row, value)."""
    if tl.load(cursor) <= capacity:
        n_row_tiles = tl.cdiv(n_rows, ROWS)
        n_feature_tiles = tl.cdiv(n_features, FEATURES)
        tile = tl.program_id(0)
        row_tile = tile % n_row_tiles
        feature_tile = tile // n_row_tiles
        size = tl.load(tile_size + tile)
        for start in range(0, size, AT_ONCE):
            at = start + tl.arange(0, AT_ONCE)
            inside = at < size
            base = tl.load(tile_base + tile)
            key = tl.load(pool_keys + base + at, mask=inside, other=0)
            value = tl.load(pool_values + base + at, mask=inside, other=0.0)
            feature = feature_tile * FEATURES + key % FEATURES
            row = row_tile * ROWS + (key // FEATURES) % ROWS
            rank_in_row = (key // (FEATURES * ROWS)) % FEATURES
            rank_in_feature = key // (FEATURES * ROWS * FEATURES)
            by_row = row.to(tl.int64) * n_feature_tiles + feature_tile
            by_feature = feature.to(tl.int64) * n_row_tiles + row_tile
            listed = tl.load(row_ends + by_row, mask=inside, other=0) - tl.load(row_counts + by_row, mask=inside, other=0)
            slot = tl.load(feature_ends + by_feature, mask=inside, other=0)
            slot = slot - tl.load(feature_counts + by_feature, mask=inside, other=0) + rank_in_feature
            listed += rank_in_row
            tl.store(list_features + listed, feature, mask=inside)
            tl.store(list_values + listed, value, mask=inside)
            tl.store(list_slots + listed, slot, mask=inside)
            tl.store(slot_rows + slot, row, mask=inside)
            tl.store(slot_values + slot, value, mask=inside)
