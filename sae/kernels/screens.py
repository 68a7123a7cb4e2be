"""Which entries of f can be active: five ways to find a superset of them, each with a bound that rules the others out.

The sparse step evaluates its candidates in float32, in one order of summation (`native_rows.keep_active`). A screen only has to
miss none of the entries that this evaluation finds positive; which screen ran, or how many threads, changes no bit of the result.

With u₈ = 2⁻⁸ and u₂₄ = 2⁻²⁴, the unit roundoffs of bfloat16 and float32, and γ = (n + 1) u₂₄ / (1 − (n + 1) u₂₄), the relative
error of a float32 sum of n + 1 terms in any order (Higham, *Accuracy and Stability*, 3.1), on Σ|x_d w_d| ≤ ‖x‖‖w‖
(Cauchy-Schwarz):

* The evaluation itself is off by at most γ (‖x‖‖w‖ + |b|), as the compiler may put the bias anywhere in the sum. Where that can
  change a sign, |b| is about ‖x‖‖w‖ at most: 2γ ‖x‖‖w‖.
* A float32 product (`Float32Screen`, `SparseRowsScreen`) is off by at most γ ‖x‖‖w‖.
* A bfloat16 product (`Bfloat16Screen`): rounding both inputs changes it by at most (2 u₈ + u₈²) ‖x‖‖w‖, accumulating in float32
  by γ (1 + u₈)² ‖x‖‖w‖, and rounding the result to bfloat16 by u₈ of itself, which is at most u₈/(1 − u₈) |product|.

* A product of bytes (`byte_screens`) is exact for what x and w were rounded to; what that lost is measured.

`SLACK` covers the float32 rounding of norms and of bands up to n = 2¹⁶; `TINY_NORM` and `TINY` what underflows.
`docs/method.md` has the derivation in full, and what it assumes.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch

from sae.kernels import native_rows
from sae.kernels.gradients import Weights
from sae.kernels.threads import for_blocks, for_slices
from sae.shapes import Rows

BFLOAT16, FLOAT32 = 2.0**-8, 2.0**-24
SLACK = 1.01
TINY = 1e-30
"""More than n products can lose to underflow (at most 2⁻¹²⁶ each)."""
TINY_NORM = np.float32(1e-16)
"""More than a norm can lose where its squares underflow: at most √(n 2⁻¹²⁶)."""


def accumulation(n: int) -> float:
    """3γ: once for the screen's product and twice for the evaluation, bias included, that it must not contradict."""
    return 3 * (n + 1) * FLOAT32 / (1 - (n + 1) * FLOAT32)


def bfloat16_band(n: int) -> float:
    """The factor of ‖x‖‖w‖ by which a bfloat16 product may be too small, before its own rounding."""
    return SLACK * (2 * BFLOAT16 + BFLOAT16**2 + accumulation(n) * (1 + BFLOAT16) ** 2)


def float32_band(n: int) -> float:
    """The same for a float32 product; with room for rounding the threshold and the sum of both."""
    return SLACK * (accumulation(n) + 16 * FLOAT32)


class Screen(ABC):
    """One way to find candidates, for a batch `seen` [row, d_mlp] (what the encoder sees) of at most `n_rows` rows."""

    name: str
    """In the log of a run."""
    tile_features: int
    """Features that are screened together."""
    group_rows: int
    """Rows whose products are computed together."""

    def __init__(self, n_features: int):
        self.tiles = [(start, min(start + self.tile_features, n_features)) for start in range(0, n_features, self.tile_features)]

    def prepare(self, weights: Weights, x: Rows, seen: Rows, norms: np.ndarray, bits: np.ndarray) -> None:
        """Once a step. `x` is the batch, `seen` what the encoder sees of it; `norms` are ‖W_enc[j]‖ and `bits` W_enc in
        bfloat16."""
        self.threshold = -weights.b_enc.numpy() - np.float32(TINY)
        self.seen, self.row_norms = seen, seen.norm(dim=1).numpy() + TINY_NORM

    def multiply(self, rows: slice, tile: int) -> None:  # noqa: B027
        """The products of a group of rows with a tile of features, where they are computed as a whole."""

    @abstractmethod
    def scan(self, rows: slice, offset: int, tile: int, found: np.ndarray, ends: np.ndarray) -> int:
        """Append the candidates of some rows, which lie `offset` rows into the group, to `found`, and their ends by row to
        `ends`. Returns −1 where `found` may be too short. Called from several threads."""


class Float32Screen(Screen):
    """A float32 product over all entries."""

    name = "float32"
    tile_features = 4096

    def __init__(self, n_features: int):
        super().__init__(n_features)
        self.group_rows = 516
        self._products = torch.empty(self.group_rows, self.tiles[0][1])

    def prepare(self, weights: Weights, x: Rows, seen: Rows, norms: np.ndarray, bits: np.ndarray) -> None:
        super().prepare(weights, x, seen, norms, bits)
        self._W_enc, self._band = weights.W_enc, (norms + TINY_NORM) * np.float32(float32_band(seen.shape[1]))

    def multiply(self, rows: slice, tile: int) -> None:
        start, end = self.tiles[tile]
        torch.mm(self.seen[rows], self._W_enc[start:end].T, out=self._products[: rows.stop - rows.start, : end - start])

    def scan(self, rows: slice, offset: int, tile: int, found: np.ndarray, ends: np.ndarray) -> int:
        start, end = self.tiles[tile]
        products = self._products.numpy()[offset : offset + rows.stop - rows.start, : end - start]
        band, threshold = self._band[start:end], self.threshold[start:end]
        return int(native_rows.scan_float32(products, threshold, band, self.row_norms, rows.start, start, found, ends))


class Bfloat16Screen(Screen):
    """A bfloat16 product over all entries: a quarter of the cost, on a processor that has instructions for it."""

    name = "bfloat16"
    tile_features = 4096

    def __init__(self, n_features: int):
        super().__init__(n_features)
        self.group_rows = 1032
        self._products = torch.empty(self.group_rows, self.tiles[0][1], dtype=torch.bfloat16)

    def prepare(self, weights: Weights, x: Rows, seen: Rows, norms: np.ndarray, bits: np.ndarray) -> None:
        super().prepare(weights, x, seen, norms, bits)
        self._W_enc = torch.from_numpy(bits).view(torch.bfloat16)
        self._band = (norms + TINY_NORM) * np.float32(bfloat16_band(seen.shape[1]))
        self._rounded = seen.bfloat16()

    def multiply(self, rows: slice, tile: int) -> None:
        start, end = self.tiles[tile]
        torch.mm(self._rounded[rows], self._W_enc[start:end].T, out=self._products[: rows.stop - rows.start, : end - start])

    def scan(self, rows: slice, offset: int, tile: int, found: np.ndarray, ends: np.ndarray) -> int:
        start, end = self.tiles[tile]
        bits = self._products.view(torch.uint16).numpy()[offset : offset + rows.stop - rows.start, : end - start]
        relative = np.float32(SLACK * BFLOAT16 / (1 - BFLOAT16))
        band, threshold = self._band[start:end], self.threshold[start:end]
        return int(native_rows.scan_bfloat16(bits, threshold, band, relative, self.row_norms, rows.start, start, found, ends))


class SparseRowsScreen(Screen):
    """float32 products from the nonzero entries of x alone, where there are no instructions for `ListsScreen`.

    The encoder sees x − b_dec, which is dense; so the product is x·w, and b_dec·w goes into the threshold."""

    name = "sparse_rows"
    tile_features = 512
    """[d_mlp, 512] floats are 1 MB at d_mlp = 512. Narrower tiles were slower (12 % nonzero, one core, ms for 4,096 x 4,096:
    128: 116, 256: 95, 512: 83; a float32 product: 190)."""
    group_rows = 1 << 30

    def prepare(self, weights: Weights, x: Rows, seen: Rows, norms: np.ndarray, bits: np.ndarray) -> None:
        super().prepare(weights, x, seen, norms, bits)
        centre = (weights.b_dec if seen is not x else torch.zeros_like(weights.b_dec)).double()
        self.threshold += (weights.W_enc.double() @ centre).float().numpy()
        self.row_norms += np.float32(2 * centre.norm())  # ‖x‖ + ‖b_dec‖ at least: the errors of both products
        self._x, self._band = x.numpy(), (norms + TINY_NORM) * np.float32(float32_band(x.shape[1]))
        self._places, self._n_nonzero = nonzero_places(self._x)
        self._W_enc_T = for_blocks(lambda t: weights.W_enc[slice(*self.tiles[t])].T.contiguous().numpy(), len(self.tiles))

    def scan(self, rows: slice, offset: int, tile: int, found: np.ndarray, ends: np.ndarray) -> int:
        start, end = self.tiles[tile]
        nonzero, limits = (self._x, self._places, self._n_nonzero), (self.threshold[start:end], self._band[start:end])
        n_rows = rows.stop - rows.start
        return int(
            native_rows.scan_sparse_rows(
                *nonzero, self._W_enc_T[tile], *limits, self.row_norms, rows.start, n_rows, start, found, ends
            )
        )


def nonzero_places(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the nonzero entries of each row, int32 [row, d_mlp] of which the first are filled, and their numbers."""
    places, n_nonzero = np.empty(x.shape, np.int32), np.empty(len(x), np.int32)
    for_slices(lambda first, n: native_rows.list_nonzero(x, first, n, places, n_nonzero), len(x))
    return places, n_nonzero
