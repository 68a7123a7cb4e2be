"""One step as a sequence of launches on fixed buffers: what a CUDA graph captures.

A kernel's arguments are looked up by name in one table (buffers, weights, sizes, flags), so that a launch names only what
differs between its calls. `torch.cumsum` and `sum` run over integers, or over float64 in a fixed order.
"""

from math import log
from typing import Any

import torch
from torch import Tensor

from sae.kernels import triton_dense, triton_encode, triton_features, triton_rows, triton_update
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.triton_buffers import Sizes, up_to_power

SMALL, WIDE = {"num_warps": 4}, {"num_warps": 8}
PRODUCT = {"num_warps": 8, "num_stages": 3}


def flags(sizes: Sizes, objective: Objective, rule: UpdateRule) -> dict[str, Any]:
    """The numbers and compile-time constants that kernels take by name."""
    (beta1, beta2), tuning = rule.betas, sizes.tuning
    return {
        "n_rows": sizes.n_rows, "n_features": sizes.n_features, "d_mlp": sizes.d_mlp, "capacity": sizes.capacity,
        "slots": sizes.slots, "n_row_tiles": sizes.n_row_tiles, "n_feature_tiles": sizes.n_feature_tiles,
        "n_column_sums": sizes.n_row_tiles, "n_programs": tuning.feature_programs, "limit": float(rule.max_gradient_norm or 0.0),
        "ROWS": tuning.rows, "FEATURES": tuning.columns, "COLUMNS": tuning.columns, "PARTS": tuning.parts, "DEPTH": tuning.depth,
        "WIDTH": up_to_power(sizes.d_mlp), "AT_ONCE": tuning.at_once, "PROGRAMS": tuning.feature_programs,
        "TILES": up_to_power(sizes.n_row_tiles), "TIED": objective.tied_bias, "WEIGHTED": objective.weighted_l1,
        "BETA1": float(beta1), "BETA2": float(beta2), "LOG_BETA1": log(beta1) if beta1 > 0 else 0.0,
        "LOG_BETA2": log(beta2) if beta2 > 0 else 0.0, "EPS": float(rule.eps), "UNIT": rule.unit_norm,
        "BEFORE": rule.renormalise == "before", "CLIPPED": rule.max_gradient_norm is not None,
    }  # fmt: skip


class Launches:
    """The launches of one step for one batch size. `tensors` holds the buffers and the state, by their names."""

    def __init__(self, sizes: Sizes, objective: Objective, rule: UpdateRule, tensors: dict[str, Tensor]):
        self.sizes, self.tensors = sizes, tensors
        self.clipped = rule.max_gradient_norm is not None
        self.names: dict[str, Any] = {**tensors, **flags(sizes, objective, rule)}

    def launch(self, kernel: Any, grid: tuple[int, ...], options: dict[str, int], **others: Any) -> None:
        """`kernel` on `grid` with its arguments by name, `others` before the table's."""
        names = self.names | others
        kernel[grid](*(names[name] for name in kernel.arg_names), **options)

    def run(self) -> None:
        """The whole step."""
        sizes, t = self.sizes, self.tensors
        t["sums"].zero_()
        self.launch(triton_encode.centre_kernel, (sizes.n_rows,), SMALL)
        if sizes.path == "auto":
            self.lists()
            self.launch(triton_rows.rows_kernel, (sizes.n_rows,), SMALL)
        else:
            t["cursor"].fill_(1)  # above the capacity of 0: dense
        self.dense_products()
        torch.sum(t["sums"], dim=1, out=t["totals"])
        torch.sum(t["feature_counts"], dim=1, dtype=torch.int64, out=t["n_fired"])
        columns = sizes.tuning.columns
        grid = (sizes.n_row_tiles, -(-sizes.d_mlp // columns))
        self.launch(triton_rows.columns_kernel, grid, SMALL)
        self.launch(triton_update.gate_kernel, (1,), SMALL)
        self.features(MEASURE=True, MOVE=not self.clipped)
        self.launch(triton_update.bias_kernel, (-(-sizes.d_mlp // 32),), SMALL, COLUMNS=32, AT_ONCE=32)
        self.launch(triton_update.finish_kernel, (1,), WIDE)
        if self.clipped:
            self.features(MEASURE=False, MOVE=True)

    def lists(self) -> None:
        """Encode and list the active entries, by row and by feature."""
        sizes, t = self.sizes, self.tensors
        products = (sizes.n_row_tiles * -(-sizes.n_feature_tiles // sizes.tuning.parts),)
        t["cursor"].zero_()
        self.launch(triton_encode.encode_kernel, products, PRODUCT, FEATURES=sizes.tuning.features)
        for what in ("row", "feature"):
            counts, ends = t[f"{what}_counts"].view(-1), t[f"{what}_ends"].view(-1)
            torch.cumsum(counts, 0, dtype=torch.int32, out=ends)
        tiles = (sizes.n_row_tiles * sizes.n_feature_tiles,)
        at_once = sizes.tuning.placed_at_once
        self.launch(triton_encode.place_kernel, tiles, SMALL, AT_ONCE=at_once, FEATURES=sizes.tuning.features)

    def dense_products(self) -> None:
        """The five products, block of rows after block of rows; each launch returns at once where the lists sufficed."""
        sizes, t = self.sizes, self.tensors
        grid = (sizes.tuning.dense_programs,)
        for first_row in range(0, sizes.n_rows, sizes.n_block):
            n_block = min(sizes.n_block, sizes.n_rows - first_row)
            block = {"first_row": first_row, "n_block": n_block}
            self.launch(triton_dense.dense_encode_kernel, grid, PRODUCT, **block)
            self.launch(triton_dense.dense_decode_kernel, grid, PRODUCT, **block)
            self.launch(triton_dense.dense_back_kernel, grid, PRODUCT, **block)
            for left, right, G in (("d16", "seen", "G_enc"), ("f16", "g", "G_dec")):
                rows = {"left": t[left], "right": t[right][first_row:], "G": t[G]}
                self.launch(triton_dense.dense_weights_kernel, grid, PRODUCT, n_block=n_block, FIRST=first_row == 0, **rows)

    def features(self, **passes: bool) -> None:
        """One pass over the features, from the lists or from the dense gradients."""
        grid = (self.sizes.tuning.feature_programs,)
        if self.sizes.path == "auto":
            self.launch(triton_features.sparse_features_kernel, grid, WIDE, **passes)
        self.launch(triton_features.dense_features_kernel, grid, WIDE, **passes)
