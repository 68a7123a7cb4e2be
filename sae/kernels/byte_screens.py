"""Screens by products of bytes (`screens` says what a screen is): of rows in full, and of what is not zero in them."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch

from sae.kernels import native_bytes, native_lists
from sae.kernels.buffers import Buffers
from sae.kernels.gradients import Weights
from sae.kernels.instructions import TOGETHER, dot_product_bits
from sae.kernels.native_bytes import aligned_zeros
from sae.kernels.screens import FLOAT32, SLACK, TINY_NORM, Screen, accumulation
from sae.kernels.threads import for_blocks, for_slices
from sae.processor import can
from sae.shapes import Rows

LIMIT = np.float32(1e30)
"""Products beyond it are not screened but evaluated."""
PANELS_TOGETHER = 8
"""Panels of encoders that one thread rounds at a time."""
SAMPLED = 256
"""Rows that say which neurons are often zero."""


def multiplies_bytes() -> bool:
    """Whether this processor has the instructions of `native_bytes`."""
    return can("avx2")


class RoundedScreen(Screen):
    """Products of bytes: x and W_enc rounded to 7 bits or so, for processors without bfloat16. See `native_bytes`.

    With x̂ and ŵ for what they are rounded to and c = b_dec (or 0), (x − c)·w = (x̂ − c)·ŵ + (x − x̂)·ŵ + (x − c)·(w − ŵ). The
    first is computed, exactly but for a few roundings at the end; the others are at most ‖x − x̂‖‖ŵ‖ and ‖x − c‖‖w − ŵ‖, with the
    norms of what rounding really lost: less than 0.01 ‖x‖‖w‖ each as a rule."""

    tile_features = 4096
    group_rows = 1 << 30
    panel: int
    """Features whose bytes and constants lie together."""
    together: int
    """Rows whose constants do."""

    def __init__(self, n_features: int):
        super().__init__(n_features)
        self._kept = Buffers()

    @abstractmethod
    def _panels(self, n_panels: int, d_mlp: int) -> tuple[tuple[int, ...], Any]:
        """Shape and type of the bytes of a tile of features."""

    @abstractmethod
    def _pack_encoders(self, W_enc: np.ndarray, start: int, end: int, centre: np.ndarray, packed: np.ndarray, *out: Any) -> None:
        """The bytes of some features into `packed`; fills `out` by feature: scale, Σ ŵ, ‖what was lost‖, the greatest |w|,
        centre · ŵ."""

    @abstractmethod
    def _pack_rows(self, x: np.ndarray, *out: np.ndarray) -> tuple[np.ndarray, ...]:
        """The bytes of all rows; fills `out` by row: scale, low, ‖what was lost‖, the greatest |x|."""

    def prepare(self, weights: Weights, x: Rows, seen: Rows, norms: np.ndarray, bits: np.ndarray) -> None:
        super().prepare(weights, x, seen, norms, bits)
        W_enc, zero = weights.W_enc.numpy(), torch.zeros_like(weights.b_dec)
        centre = (zero if seen is x else weights.b_dec).numpy()
        self._encoders = [self._round_encoders(W_enc, centre, norms, tile) for tile in range(len(self.tiles))]
        self._rows = self._round_rows(x.numpy(), float(np.linalg.norm(centre.astype(np.float64))), float(norms.max()))

    def _round_encoders(
        self, W_enc: np.ndarray, centre: np.ndarray, norms: np.ndarray, tile: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """A tile of features: their bytes, and their constants [panel, (scale, Σ ŵ, lost, norm, threshold), feature]."""
        start, end = self.tiles[tile]
        n_panels = -(-(end - start) // self.panel)
        scale, total, lost, greatest = np.empty((4, end - start), np.float32)
        at_centre = np.empty(end - start)
        packed = self._kept(f"panels {tile}", *self._panels(n_panels, W_enc.shape[1]), aligned_zeros)

        def pack(part: int) -> None:
            """Some panels: threads share a tile, as there is but one of 4,096 features."""
            first = part * PANELS_TOGETHER
            near, far = first * self.panel, min((first + PANELS_TOGETHER) * self.panel, end - start)
            out = [each[near:far] for each in (scale, total, lost, greatest, at_centre)]
            self._pack_encoders(W_enc, start + near, start + far, centre, packed[first : first + PANELS_TOGETHER], *out)

        for_blocks(pack, -(-n_panels // PANELS_TOGETHER))
        lost = _at_most(lost, greatest, W_enc.shape[1])
        norm = np.float32(SLACK) * (norms[start:end] + lost)
        threshold = np.clip(self.threshold[start:end] + at_centre, -LIMIT, LIMIT)
        of_features = np.zeros((5, n_panels * self.panel), np.float32)
        of_features[4] = 1  # of features that fill up the last panel: nothing is above
        of_features[:, : end - start] = scale, total, lost, norm, threshold
        return packed, np.ascontiguousarray(of_features.reshape(5, n_panels, self.panel).swapaxes(0, 1))

    @np.errstate(over="ignore", invalid="ignore")  # what overflows is seen by `LIMIT`
    def _round_rows(self, x: np.ndarray, centre_norm: float, greatest_norm: float) -> tuple[Any, np.ndarray]:
        """All rows: their bytes, and their constants. Of rows in which something might overflow all entries are candidates."""
        n_rows, n = x.shape
        scale, low, lost, greatest = np.empty((4, n_rows), np.float32)
        packed = self._pack_rows(x, scale, low, lost, greatest)
        reach = 2 * self.row_norms + np.float32(3 * centre_norm) + np.float32(2 * np.sqrt(n)) * greatest
        lost = _at_most(lost, greatest, n) + np.float32(SLACK * (accumulation(n) + 32 * FLOAT32)) * reach
        of_rows = np.zeros((-(-n_rows // self.together) * self.together, 4), np.float32)
        of_rows[:n_rows] = np.stack([scale, low, np.float32(SLACK) * self.row_norms, lost], axis=1)
        of_rows[:n_rows][~(reach * np.float32(max(greatest_norm, 1)) < LIMIT)] = (0, 0, 0, np.inf)
        return packed, of_rows.reshape(-1, self.together, 4)


class BytesScreen(RoundedScreen):
    """Rows in full, six at a time by 16 features: for rows that are not mostly zeros."""

    name = "bytes"
    panel, together = native_bytes.PANEL, native_bytes.GROUP_ROWS

    def _panels(self, n_panels: int, d_mlp: int) -> tuple[tuple[int, ...], Any]:
        return (n_panels, _n_quads(d_mlp), self.panel), np.uint32

    def _pack_encoders(self, W_enc: np.ndarray, start: int, end: int, centre: np.ndarray, packed: np.ndarray, *out: Any) -> None:
        room = native_bytes.ALL_ROOM if dot_product_bits() else native_bytes.ENCODER_ROOM
        native_bytes.features_to_bytes(W_enc, start, end, room, centre, packed, *out)

    def _pack_rows(self, x: np.ndarray, *out: np.ndarray) -> tuple[np.ndarray, ...]:
        shape = (-(-len(x) // self.together), _n_quads(x.shape[1]), self.together)
        packed = self._kept("rows", shape, np.uint32, np.zeros)
        room = native_bytes.ALL_ROOM if dot_product_bits() else native_bytes.ROW_ROOM
        for_slices(lambda first, n: native_bytes.rows_to_bytes(x, first, n, room, packed, *out), len(x))
        return (packed,)

    def scan(self, rows: slice, offset: int, tile: int, found: np.ndarray, ends: np.ndarray) -> int:
        start, end = self.tiles[tile]
        place = (rows.start, rows.stop - rows.start, start, end - start)
        (packed,), of_rows = self._rows
        return int(native_bytes.scan_bytes(packed, of_rows, *self._encoders[tile], *place, found, ends))


class ListsScreen(RoundedScreen):
    """Rows as lists of their entries above zero, one at a time by 48 features: for rows after a ReLU."""

    name = "lists"
    panel, together = native_lists.COLUMN, 1

    def prepare(self, weights: Weights, x: Rows, seen: Rows, norms: np.ndarray, bits: np.ndarray) -> None:
        self._order = by_frequency(x[:SAMPLED])
        super().prepare(weights, x, seen, norms, bits)

    def _panels(self, n_panels: int, d_mlp: int) -> tuple[tuple[int, ...], Any]:
        return (n_panels, -(-d_mlp // 2) + 1, 2 * self.panel), np.int8

    def _pack_encoders(self, W_enc: np.ndarray, start: int, end: int, centre: np.ndarray, packed: np.ndarray, *out: Any) -> None:
        native_lists.features_to_columns(W_enc, start, end, self._order, centre[self._order], packed, *out)

    def _pack_rows(self, x: np.ndarray, *out: np.ndarray) -> tuple[np.ndarray, ...]:
        n_slots = -(-x.shape[1] // (2 * native_lists.GROUP)) * native_lists.GROUP
        places, levels = self._kept("places", (len(x), n_slots), np.int32), self._kept("levels", (len(x), n_slots), np.uint32)
        lists = (places, levels, self._kept("groups", (len(x),), np.int64))
        for_slices(lambda first, n: native_lists.rows_to_lists(x, first, n, self._order, *lists, *out), len(x))
        return lists

    def scan(self, rows: slice, offset: int, tile: int, found: np.ndarray, ends: np.ndarray) -> int:
        start, end = self.tiles[tile]
        place = (rows.start, rows.stop - rows.start, start, end - start)
        lists, of_rows = self._rows
        return int(native_lists.scan_lists(lists, of_rows, *self._encoders[tile], *place, found, ends))


def by_frequency(x: Rows) -> np.ndarray:
    """Neurons in the order of how many of these rows they are not zero in, int64 [d_mlp]. A pair of neighbours then has both or
    neither more often: of the benchmark's rows 24.5 % of pairs are listed and not 26.7, of those half of which is not zero 71.7
    and not 76.7 (70 at best by matching each with the one that it fires with)."""
    return (x != 0).sum(0).argsort().numpy()


def _n_quads(n: int) -> int:
    """Of `n` entries: a multiple of `TOGETHER`."""
    return -(-n // (4 * TOGETHER)) * TOGETHER


def _at_most(lost: np.ndarray, greatest: np.ndarray, n: int) -> np.ndarray:
    """No less than the norm of what rounding lost, of which `lost` was computed in float32: each entry's error to four roundings
    of the greatest entry, or so; their squares' sum by `SLACK`."""
    return np.float32(SLACK) * lost + np.float32(8 * FLOAT32 * np.sqrt(n)) * greatest + TINY_NORM
