"""The shape of an activation store: how many rows, in what type of number, in chunks and shards of which size."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from sae.errors import ConfigError, StoreError
from sae.provenance import Run
from sae.storage import arrays

SCHEMA = 3
"""Of the store's format (docs/store.md); 1 had zeros as fill values, 2 no checksums of chunks in its record."""
LIVE = "live feed"
"""Kind of the record that stands in the place of a store where nothing is stored: what live rows are made from."""
Stored = Literal["float16", "bfloat16", "float32"]
"""bfloat16 is stored as its bits in uint16, since zarr has no such type; the array's attribute `dtype` says so."""
CHUNK_BYTES, CHUNKS_PER_SHARD = 2**23, 16
"""A chunk is what is read and checked at once, a shard what is written at once: 8 MiB and 128 MiB, whatever the width."""
FEWEST_ROWS = 64


@dataclass(frozen=True)
class Layout:
    """Of one store. Raises `ConfigError` for an unknown type or codec."""

    n_rows: int
    d_mlp: int
    dtype: Stored = "float16"
    chunk_rows: int = 0
    """A power of two, chosen by `CHUNK_BYTES` where 0."""
    chunks_per_shard: int = 0
    """`CHUNKS_PER_SHARD` where 0."""
    codec: arrays.Codec = "none"

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Stored):
            raise ConfigError(f"'dtype' = {self.dtype!r}: must be one of {', '.join(get_args(Stored))}")
        if self.codec not in arrays.CODECS:
            raise ConfigError(f"'codec' = {self.codec!r}: must be one of {', '.join(arrays.CODECS)}")
        if self.chunk_rows == 0:
            fitting = max(FEWEST_ROWS, CHUNK_BYTES // (self.d_mlp * self.on_disk.itemsize))
            object.__setattr__(self, "chunk_rows", 2 ** (fitting.bit_length() - 1))
        if self.chunks_per_shard == 0:
            object.__setattr__(self, "chunks_per_shard", CHUNKS_PER_SHARD)

    @property
    def on_disk(self) -> np.dtype:
        """The type of number that the array has."""
        return np.dtype("<u2" if self.dtype == "bfloat16" else np.dtype(self.dtype).newbyteorder("<"))

    @property
    def shard_rows(self) -> int:
        return self.chunk_rows * self.chunks_per_shard

    @property
    def n_shards(self) -> int:
        return -(-self.n_rows // self.shard_rows)

    def shard(self, index: int) -> slice:
        """The rows of a shard."""
        return slice(index * self.shard_rows, min((index + 1) * self.shard_rows, self.n_rows))

    @property
    def record(self) -> np.dtype:
        """A row on its way: its place in the store, where it came from, its values."""
        return np.dtype([("place", "<i8"), ("origin", "<u4", (2,)), ("values", self.on_disk, (self.d_mlp,))])

    @property
    def n_bytes(self) -> int:
        """Of the finished store before compression."""
        return self.n_rows * (self.d_mlp * self.on_disk.itemsize + 8)

    @property
    def most(self) -> float:
        """The greatest number that the type holds."""
        return float(torch.finfo(getattr(torch, self.dtype)).max)


def to_disk(values: torch.Tensor, dtype: Stored) -> np.ndarray:
    """Float32 values in the store's type, on the CPU; what is too large becomes infinite."""
    cast = values.to(getattr(torch, dtype)).cpu()
    return (cast.view(torch.uint16) if dtype == "bfloat16" else cast).numpy()


def from_disk(values: np.ndarray, dtype: Stored) -> torch.Tensor:
    """Float32 from what a store holds."""
    tensor = torch.from_numpy(values)
    return (tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor).float()


ZARR = "activations.zarr"
FIELDS = (("activations", "values"), ("origin", "origin"))
"""The arrays that have shards, and the field of `Layout.record` that each holds."""


def shard_files(shard: int) -> list[str]:
    """A shard's file of each array, below the store's folder, in the order of `FIELDS`."""
    return [f"{ZARR}/{name}/c/{shard}/0" for name, _ in FIELDS]


def create_arrays(path: Path, layout: Layout) -> arrays.Group:
    """A new group at `path` with the arrays that have shards, empty."""
    group = arrays.create_group(path, {"site_axes": "row d_mlp", "store_schema": SCHEMA})
    sizes: dict[str, Any] = {"chunk_rows": layout.chunk_rows, "shard_rows": layout.shard_rows, "codec": layout.codec}
    shape, attributes = (layout.n_rows, layout.d_mlp), {"dtype": layout.dtype}
    arrays.create_array(group, "activations", shape, layout.on_disk, ("row", "d_mlp"), attributes=attributes, **sizes)
    arrays.create_array(group, "origin", (layout.n_rows, 2), np.uint32, ("row", "origin"), **sizes)
    return group


def layout_of(path: str | Path, run: Run) -> Layout:
    """Of a committed store, as its record states it. Raises `StoreError` where it does not, or is of another schema."""
    schema = run.facts.get("store_schema", 1)
    if schema != SCHEMA:
        raise StoreError(f"{path} is of store schema {schema}, this version reads {SCHEMA}; harvest again")
    try:
        stated = {field.name: run.facts[field.name] for field in fields(Layout)}
        for name in ("n_rows", "d_mlp", "chunk_rows", "chunks_per_shard"):
            if type(stated[name]) is not int or stated[name] < (name != "n_rows"):
                raise ConfigError(f"'{name}' = {stated[name]!r} is no number of them")
        return Layout(**stated)
    except (KeyError, ConfigError) as error:
        raise StoreError(f"the record of {path} does not describe the store ({error}); harvest again") from None
