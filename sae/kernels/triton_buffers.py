"""The memory of the GPU engine: every buffer's name, shape and type in one table, from which it is allocated and summed."""

from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from sae.errors import ConfigError

SPARSE_BELOW = 0.009
"""Share of entries active up to which the lists have room, and so up to which a step is sparse. On paper the gathers of the
sparse path cost as much as the dense products at 0.0054 (weights read from memory) to 0.009 (from L2) of n_features active in
a row; the upper end is taken because a dense step has already paid for one product when it finds that it is one. Unmeasured."""

MOST_D_MLP = 8192
"""Wider rows do not fit a program's registers."""

Path = Literal["auto", "dense"]
Spec = tuple[tuple[int, ...], torch.dtype]


def up_to_power(n: int) -> int:
    """The least power of two that is at least `n`."""
    return 1 << (n - 1).bit_length()


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Tile sizes and numbers of programs. All chosen on paper for an H200; unmeasured."""

    rows: int = 128
    """Rows of a tile of the products (a power of two, at least 16)."""
    features: int = 64
    """Features of a tile whose active entries are listed together."""
    parts: int = 4
    """Such tiles in one product of the encoder: 1, 2 or 4."""
    columns: int = 128
    """Features, or columns of d_mlp, of a tile of the dense path's products."""
    depth: int = 64
    """Summands taken at once in a product."""
    at_once: int = 8
    """Entries gathered at once, for a row or for a feature."""
    placed_at_once: int = 128
    """Entries moved at once from a tile's pool to the lists."""
    feature_programs: int = 1024
    """Programs over which features are dealt; a power of two. Sums over features depend on it in their last bits."""
    dense_programs: int = 264
    """Programs over which the dense path's tiles are dealt; two for each of an H200's 132 multiprocessors."""
    block_bytes: int = 2**28
    """Bytes of each of the dense path's two [row of a block, feature] buffers, at most (but at least one tile of rows)."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of one batch's step, and what follows from them."""

    n_rows: int
    n_features: int
    d_mlp: int
    dtype: torch.dtype = torch.float32
    """Of the rows as they are given."""
    sparse_below: float = SPARSE_BELOW
    path: Path = "auto"
    tuning: Tuning = Tuning()

    def __post_init__(self) -> None:
        if min(self.n_rows, self.n_features, self.d_mlp) < 1:
            raise ConfigError(
                f"A step of {self.n_rows} rows, {self.n_features} features and d_mlp {self.d_mlp} was asked for; "
                "each must be at least 1."
            )
        if self.d_mlp > MOST_D_MLP:
            raise ConfigError(
                f"d_mlp is {self.d_mlp}, and the GPU engine keeps a whole row in one program's registers: at most {MOST_D_MLP}. "
                "Use the dense engine."
            )
        if self.capacity >= 2**31:
            raise ConfigError(
                f"Lists of {self.capacity} entries were asked for (sparse_below {self.sparse_below} of {self.n_rows} rows x "
                f"{self.n_features} features) and their positions are 32-bit. Take fewer rows a step, or a lower sparse_below."
            )

    @property
    def n_row_tiles(self) -> int:
        return ceil(self.n_rows / self.tuning.rows)

    @property
    def n_feature_tiles(self) -> int:
        return ceil(self.n_features / self.tuning.features)

    @property
    def n_block(self) -> int:
        """Rows that the dense path takes at once: a multiple of a tile's."""
        tiles = max(1, self.tuning.block_bytes // (2 * self.n_features * self.tuning.rows))
        return min(tiles, self.n_row_tiles) * self.tuning.rows

    @property
    def capacity(self) -> int:
        """Entries that the lists hold; a batch with more active takes the dense path."""
        return 0 if self.path == "dense" else ceil(self.sparse_below * self.n_rows * self.n_features)

    @property
    def slots(self) -> int:
        """Partial sums of each statistic: one for a row, or one for a program."""
        return max(self.n_rows, self.tuning.dense_programs)


def kept(sizes: Sizes) -> dict[str, Spec]:
    """Buffers that belong to the weights: 4 bytes a parameter of W_enc and W_dec for the bfloat16 copies, and small ones."""
    m, n, programs = sizes.n_features, sizes.d_mlp, sizes.tuning.feature_programs
    bf16, f32, f64 = torch.bfloat16, torch.float32, torch.float64
    return {
        "W_enc16": ((m, n), bf16), "W_dec16": ((m, n), bf16), "norms": ((m,), f32), "encoder_squares": ((programs,), f64),
        "norm_squares": ((programs,), f64), "encoder_sums": ((programs, n), f32), "gradient_b_dec": ((n,), f32),
        "gate": ((8,), f64), "results": ((4,), f64), "controls": ((2,), f64), "totals": ((6,), f64), "count": ((1,), torch.int64),
    }  # fmt: skip


def of_batch(sizes: Sizes) -> dict[str, Spec]:
    """Buffers that belong to a batch's size. None is [row, feature]; the dense path's f16 and d16 hold `n_block` rows."""
    rows, m, n, capacity = sizes.n_rows, sizes.n_features, sizes.d_mlp, sizes.capacity
    row_tiles, feature_tiles = sizes.n_row_tiles, sizes.n_feature_tiles
    bf16, f32, i32, i64 = torch.bfloat16, torch.float32, torch.int32, torch.int64
    buffers: dict[str, Spec] = {
        "x": ((rows, n), sizes.dtype), "seen": ((rows, n), bf16), "g": ((rows, n), bf16), "n_fired": ((m,), i64),
        "sums": ((6, sizes.slots), torch.float64), "column_sums": ((row_tiles, n), f32), "cursor": ((1,), i64),
        "feature_counts": ((m, row_tiles), i32), "f16": ((sizes.n_block, m), bf16), "d16": ((sizes.n_block, m), bf16),
        "tile_f": ((m, row_tiles), f32), "tile_d": ((m, row_tiles), f32), "G_enc": ((m, n), f32), "G_dec": ((m, n), f32),
    }  # fmt: skip
    if sizes.path == "auto":
        lists = {"pool_keys": i32, "list_features": i32, "list_slots": i32, "slot_rows": i32}
        values = {"pool_values": f32, "list_values": f32, "slot_values": f32, "slot_d": f32}
        tiles = row_tiles * feature_tiles
        buffers |= {name: ((capacity,), dtype) for name, dtype in (lists | values).items()}
        buffers |= {"feature_ends": ((m, row_tiles), i32), "tile_base": ((tiles,), i64), "tile_size": ((tiles,), i32)}
        buffers |= {"row_counts": ((rows, feature_tiles), i32), "row_ends": ((rows, feature_tiles), i32)}
    return buffers


def allocate(specs: dict[str, Spec], device: torch.device) -> dict[str, Tensor]:
    """The buffers, uninitialised."""
    return {name: torch.empty(shape, dtype=dtype, device=device) for name, (shape, dtype) in specs.items()}


def bytes_needed(
    n_rows: int, n_features: int, d_mlp: int, *, dtype: torch.dtype = torch.float32,
    sparse_below: float = SPARSE_BELOW, path: Path = "auto", tuning: Tuning | None = None,
) -> int:  # fmt: skip
    """Bytes that a `CudaEngine` allocates for steps of `n_rows` rows, beside the state's own 24 a parameter.

    A second batch size costs its own `of_batch` again. What torch and CUDA keep for themselves is not in it."""
    sizes = Sizes(
        n_rows=n_rows, n_features=n_features, d_mlp=d_mlp, dtype=dtype,
        sparse_below=sparse_below, path=path, tuning=tuning or Tuning(),
    )  # fmt: skip
    total = 0
    for shape, kind in (kept(sizes) | of_batch(sizes)).values():
        n = 1
        for length in shape:
            n *= length
        total += n * kind.itemsize
    return total
