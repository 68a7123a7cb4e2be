"""What the tile kernels share: one tile of a matrix product, and rounding to bfloat16."""

from __future__ import annotations

from sae.kernels.triton_door import INTERPRETED, jit, tl


@jit
def rounded(values):
    """`values` (float32) as bfloat16, to nearest even."""
    if INTERPRETED:  # its own conversion truncates; these are the same bits as the hardware's
        bits = values.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        values = bits.to(tl.float32, bitcast=True)
    return values.to(tl.bfloat16)


@jit
def product(
    a, a_row, a_k, b, b_column, b_k, rows, columns, n_rows, n_columns, n_k,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Σ_k a[row, k] b[column, k] for one tile, [ROWS, COLUMNS], bfloat16 factors, float32 sum in ascending blocks of k.

    `a_row`, `a_k`, `b_column`, `b_k` are strides in elements, so that either factor may lie transposed. Rows and columns
    beyond `n_rows`, `n_columns` count as zero."""
    a_rows = a + rows[:, None].to(tl.int64) * a_row
    b_columns = b + columns[None, :].to(tl.int64) * b_column
    k = tl.arange(0, DEPTH)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, n_k, DEPTH):
        at = start + k
        a_tile = tl.load(a_rows + at[None, :].to(tl.int64) * a_k, mask=(rows < n_rows)[:, None] & (at < n_k)[None, :], other=0.0)
        b_tile = tl.load(
            b_columns + at[:, None].to(tl.int64) * b_k, mask=(columns < n_columns)[None, :] & (at < n_k)[:, None], other=0.0
        )
        if INTERPRETED:  # multiplies bfloat16 as integers; exact in float32
            a_tile = a_tile.to(tl.float32)
            b_tile = b_tile.to(tl.float32)
        total = tl.dot(a_tile, b_tile, total)
    return total
