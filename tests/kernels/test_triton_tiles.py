"""The tile product and the rounding, against torch."""

from __future__ import annotations

import pytest
import torch

from sae.kernels.triton_door import AVAILABLE, RUNS_INTERPRETED, jit, tl
from sae.kernels.triton_tiles import product, rounded

pytestmark = pytest.mark.skipif(
    not (AVAILABLE and RUNS_INTERPRETED), reason="needs triton's interpreter: pip install triton==3.7.1"
)


@jit
def rounded_kernel(values, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, rounded(tl.load(values + at)))


@jit
def product_kernel(a, a_row, a_k, b, b_column, b_k, out, n_rows, n_columns, n_k, TILE: tl.constexpr):
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    columns = tl.program_id(1) * TILE + tl.arange(0, TILE)
    total = product(a, a_row, a_k, b, b_column, b_k, rows, columns, n_rows, n_columns, n_k, TILE, TILE, TILE)
    mask = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    tl.store(out + rows[:, None] * n_columns + columns[None, :], total, mask=mask)


def test_rounding_to_bfloat16_is_to_nearest_even():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(512, generator=generator) * 10.0 ** torch.randint(-20, 20, (512,), generator=generator)
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 2 - 2**-9, 0.0, -0.0, float("inf"), 3.0e38])
    values[: len(ties)] = ties
    out = torch.zeros(512, dtype=torch.bfloat16)
    rounded_kernel[(1,)](values, out, N=512)
    assert torch.equal(out.view(torch.int16), values.bfloat16().view(torch.int16))


@pytest.mark.parametrize("transposed", [False, True])
def test_product_of_ragged_sizes(transposed):
    generator = torch.Generator().manual_seed(0)
    n_rows, n_columns, n_k = 21, 35, 18
    a, b = (torch.randn(n, n_k, generator=generator).bfloat16() for n in (n_rows, n_columns))
    if transposed:
        a, b = a.T.contiguous().T, b.T.contiguous().T
    out = torch.full((n_rows, n_columns), float("nan"))
    product_kernel[(2, 3)](a, *a.stride(), b, *b.stride(), out, n_rows, n_columns, n_k, TILE=16)
    torch.testing.assert_close(out.double(), a.double() @ b.double().T, rtol=1e-5, atol=1e-5)
