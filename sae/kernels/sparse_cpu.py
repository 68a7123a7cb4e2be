"""The sparse step's first half on a CPU: the active entries of f, exactly, and what the gradients need of them.

At an L0 of 20 of 4,096 features 99.5 % of f is zero. Decoding, the features' gradient and both weight gradients touch the active
entries only; the encoder looks at every entry, as cheaply as the processor and the data allow (`screens`). Nothing is
approximated and nothing is dropped: a block of rows whose candidates outgrow its buffer gets a longer one and is screened again.
"""

from dataclasses import dataclass

import numpy as np
import torch

from sae.kernels import native_rows
from sae.kernels.buffers import Buffers
from sae.kernels.gradients import Weights
from sae.kernels.objective import Objective
from sae.kernels.screens import Screen
from sae.kernels.threads import for_blocks
from sae.shapes import Rows

BLOCK_ROWS = 258
"""A multiple of `native_bytes.GROUP_ROWS`, and 16 blocks of 4,096 rows, so that 2, 4, 8 or 16 threads have as many each. Its x̄ or
g is to stay in the second-level cache (516 kB at d_mlp 512), and each block reads all encoders that have candidates. ms to
evaluate 62 candidates of 4,096 rows in a loaded hour, by rows a block: 84 57, 126 49, 162 41, 240 33, 324 31."""


@dataclass
class Entries:
    """All active entries of a batch by feature, each feature's in the order of rows, and what was measured on the way."""

    starts: np.ndarray
    """Where each feature's entries begin, and the end of all: int64 [feature + 1]."""
    lists: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Row (int32), f and d (float32) of each entry; longer than needed."""
    seen: np.ndarray
    """x̄, what the encoder saw: float32 [row, d_mlp]."""
    g: np.ndarray
    """(2/B)(x̂ − x), float32 [row, d_mlp]."""
    g_sum: np.ndarray
    """Sum of g over rows, float64 [d_mlp]."""
    squared_error: float
    l1: float
    bound: float
    """See `gradient_bound`; NaN or infinite where loss or gradients are."""

    @property
    def n_fired(self) -> np.ndarray:
        return np.diff(self.starts)


@np.errstate(invalid="ignore", over="ignore")  # NaN and infinity are what it looks for
def gradient_bound(
    squares: np.ndarray, g_norm: float, row_norms: np.ndarray, norms: np.ndarray, l1_scale: np.float32, objective: Objective
) -> float:
    """More than any entry of any gradient, and than any partial sum of a pre-activation, by Cauchy-Schwarz; not a tight one.

    `squares` are Σ f² and Σ d² over all entries, `g_norm` is ‖g‖, `row_norms` ‖x̄‖ [row] and `norms` ‖W_enc[j]‖ [feature]. A sum
    and no maximum, as that would pass over NaN."""
    f_norm, d_norm = np.sqrt(squares)
    rows = np.sqrt(len(row_norms))  # the norm of a one in every row
    of_W_dec = f_norm * (g_norm + (l1_scale * rows if objective.weighted_l1 else 0))
    of_W_enc = d_norm * np.linalg.norm(row_norms.astype(np.float64))
    of_b_dec = rows * (g_norm + (d_norm * np.linalg.norm(norms.astype(np.float64)) if objective.tied_bias else 0))
    pre_activation = float(row_norms.max()) * float(norms.max())
    return float(of_W_dec + of_W_enc + rows * d_norm + of_b_dec + pre_activation)


class _Block:
    """The candidates of up to `BLOCK_ROWS` rows, by (tile of features, row), and then its active entries, by (feature, row)."""

    def __init__(self, rows: slice, n_tiles: int, n_features: int, capacity: int):
        self.rows = rows
        self.n_rows = rows.stop - rows.start
        self.ends = np.zeros((n_tiles, self.n_rows + 1), np.int64)
        self.found = np.empty(capacity, np.int32)
        self._features, self._stops = np.empty(n_features, np.int32), np.empty(n_features, np.int32)
        self.entry_rows, self.f, self.d = np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.float32)
        self.n_active = 0
        """Features that fire."""

    @property
    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """Those that fire, in order, and where the entries of each end in `entry_rows`, `f` and `d`."""
        return self._features[: self.n_active], self._stops[: self.n_active]

    def screen(self, screen: Screen, offset: int, tile: int) -> None:
        self.ends[tile, 0] = self.ends[tile - 1, -1] if tile else 0
        while screen.scan(self.rows, offset, tile, self.found, self.ends[tile]) < 0:
            self.found = np.concatenate([self.found, np.empty_like(self.found)])

    def activate(self, seen: np.ndarray, weights: Weights, fired: np.ndarray) -> None:
        """Evaluate the candidates; `fired` [feature] becomes the number of each feature's active entries."""
        if len(self.f) < len(self.found):
            size = len(self.found)
            self.entry_rows, self.f, self.d = np.empty(size, np.int32), np.empty(size, np.float32), np.empty(size, np.float32)
        given = (seen, weights.W_enc.numpy(), weights.b_enc.numpy(), self.rows.start, self.found, self.ends)
        self.n_active = native_rows.keep_active(*given, fired, self._features, self._stops, self.entry_rows, self.f)


class SparseForward:
    """Finds the entries of batch after batch, in buffers that it keeps."""

    def __init__(self, objective: Objective):
        self.objective = objective
        self._blocks: list[_Block] = []
        self._lists = (np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.float32))
        self._kept = Buffers()

    def __call__(self, weights: Weights, x: Rows, l1: float, screen: Screen, norms: np.ndarray, bits: np.ndarray) -> Entries:
        """`norms` are ‖W_enc[j]‖ and `bits` W_enc in bfloat16, which `screen` may use. The result is good until the next call."""
        seen, shape = x, (len(x), x.shape[1])
        if self.objective.tied_bias:
            seen = torch.sub(x, weights.b_dec, out=torch.from_numpy(self._kept("seen", shape)))
        screen.prepare(weights, x, seen, norms, bits)
        fired = self._screen(weights, seen.numpy(), screen)
        n_features = len(norms)
        cost = weights.W_dec.norm(dim=1).numpy() if self.objective.weighted_l1 else np.ones(n_features, np.float32)
        g, n_blocks = self._kept("g", shape), len(self._blocks)
        g_sum = np.empty((n_blocks, x.shape[1]), np.float32)
        scale, l1_scale = np.float32(2 / len(x)), np.float32(l1 / len(x))

        def decode(i: int) -> tuple[float, float, float, float]:
            block = self._blocks[i]
            given = (x.numpy(), weights.W_dec.numpy(), weights.b_dec.numpy(), cost, l1_scale, scale)
            entries = (block.rows.start, block.n_rows, *block.features, block.entry_rows, block.f)
            sums: tuple[float, float, float, float] = native_rows.decode_rows(*given, *entries, g, block.d, g_sum[i])
            return sums

        sums = np.sum(for_blocks(decode, n_blocks), axis=0)
        starts, lists = self._by_feature(fired)
        bound = gradient_bound(sums[2:], float(scale * np.sqrt(sums[0])), screen.row_norms, norms, l1_scale, self.objective)
        if weights.b_enc.isnan().any():  # such a feature is compared with, and never found
            bound = float("nan")
        total: np.ndarray = g_sum.astype(np.float64).sum(axis=0)
        return Entries(starts, lists, seen.numpy(), g, total, float(sums[0] / len(x)), float(sums[1] / len(x)), bound)

    def _screen(self, weights: Weights, seen: np.ndarray, screen: Screen) -> np.ndarray:
        """All blocks' active entries, group by group of rows and tile by tile of features; returns how many each feature has in
        each block, int64 [block, feature]."""
        n_features = len(weights.W_enc)
        self._fit(len(seen), len(screen.tiles), n_features)
        fired = self._kept("fired", (len(self._blocks), n_features), np.int64)
        per_group = max(1, screen.group_rows // BLOCK_ROWS)
        for first in range(0, len(self._blocks), per_group):
            group = self._blocks[first : first + per_group]
            rows = slice(group[0].rows.start, group[-1].rows.stop)
            for tile in range(len(screen.tiles)):
                screen.multiply(rows, tile)

                def scan(i: int, first: int = first, start: int = rows.start, tile: int = tile) -> None:
                    block = self._blocks[first + i]
                    block.screen(screen, block.rows.start - start, tile)
                    if tile == len(screen.tiles) - 1:
                        block.activate(seen, weights, fired[first + i])

                for_blocks(scan, len(group))
        return fired

    def _fit(self, n_rows: int, n_tiles: int, n_features: int) -> None:
        """Blocks for a batch of `n_rows`; those that fit are kept with their buffers."""
        wanted = [slice(start, min(start + BLOCK_ROWS, n_rows)) for start in range(0, n_rows, BLOCK_ROWS)]
        if [block.rows for block in self._blocks] == wanted and len(self._blocks[0].ends) == n_tiles:
            return
        self._blocks = [_Block(rows, n_tiles, n_features, 1 << 14) for rows in wanted]

    def _by_feature(self, fired: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Entries in the order of (feature, row): where each feature begins, then every block puts its entries in place. Changes
        `fired`."""
        starts = np.empty(fired.shape[1] + 1, np.int64)
        native_rows.begin_features(fired, starts)
        if len(self._lists[0]) < starts[-1]:
            size = int(starts[-1] * 1.25)
            self._lists = (np.empty(size, np.int32), np.empty(size, np.float32), np.empty(size, np.float32))

        def place(i: int) -> None:
            block = self._blocks[i]
            entries = (*block.features, block.entry_rows, block.f, block.d, block.rows.start)
            native_rows.place_by_feature(*entries, fired[i], *self._lists)

        for_blocks(place, len(self._blocks))
        return starts, self._lists
