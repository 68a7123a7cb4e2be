"""Rows in, in any order; a globally shuffled zarr store out, in memory of one shard.

Every row's place in the store is drawn before the first row comes: entry i of a seeded permutation. A row is appended to
the scratch file of the shard where its place lies; when all have come, each shard's file is read, put in order and written
whole. That is the one-pass case of Anthropic's multi-pass shuffle ("The engineering challenges of scaling
interpretability"): one shard in memory, one open file a shard.
"""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from sae.shapes import RowOrigins
from sae.storage import arrays
from sae.storage.activations import CHUNK_ROWS

SHARD_ROWS = 16 * CHUNK_ROWS
SIZES: dict[str, Any] = {"chunk_rows": CHUNK_ROWS, "shard_rows": SHARD_ROWS}


class HarvestedRows(NamedTuple):
    """Some rows on their way to a store."""

    values: np.ndarray
    """[row, d_mlp] in the store's dtype."""
    origin: RowOrigins


class ShuffledWriter:
    """Writes exactly `n_rows` rows under the draft directory `path`. Use as a context manager; `add` all rows, then `finish`."""

    def __init__(self, path: Path, n_rows: int, d_mlp: int, dtype: np.dtype, seed: int):
        self.path, self.n_rows, self.d_mlp, self.dtype = path, n_rows, d_mlp, dtype
        self._place = np.random.default_rng([seed, 1]).permutation(n_rows)
        self._n_added = 0
        self._record = np.dtype([("place", "<i8"), ("origin", "<u4", (2,)), ("values", dtype, (d_mlp,))])
        self._scratch = path / "scratch"
        self._scratch.mkdir()
        n_shards = -(-n_rows // SHARD_ROWS)
        self._files = [open(self._scratch / f"{i:05d}", "wb") for i in range(n_shards)]  # noqa: SIM115

    def __enter__(self) -> "ShuffledWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._files:
            file.close()

    def add(self, rows: HarvestedRows) -> None:
        """The next rows, in whatever order the transformer gave them."""
        n = len(rows.values)
        assert self._n_added + n <= self.n_rows, "more rows than announced"
        records = np.empty(n, self._record)
        records["place"] = self._place[self._n_added : self._n_added + n]
        records["origin"], records["values"] = rows.origin, rows.values
        self._n_added += n
        shard = records["place"] // SHARD_ROWS
        order = np.argsort(shard, kind="stable")
        starts = np.searchsorted(shard[order], np.arange(len(self._files) + 1))
        for i, file in enumerate(self._files):
            if starts[i] < starts[i + 1]:
                file.write(records[order[starts[i] : starts[i + 1]]].tobytes())

    def finish(self, attributes: dict[str, object]) -> None:
        """Write the shards and remove the scratch files."""
        assert self._n_added == self.n_rows, f"{self._n_added} rows added of {self.n_rows}"
        group = arrays.create_group(self.path / "activations.zarr", attributes)
        values = arrays.create_array(group, "activations", (self.n_rows, self.d_mlp), self.dtype, ("row", "d_mlp"), **SIZES)
        origin = arrays.create_array(group, "origin", (self.n_rows, 2), np.uint32, ("row", "origin"), **SIZES)
        for i, file in enumerate(self._files):
            file.close()
            records = np.fromfile(file.name, self._record)
            records = records[np.argsort(records["place"])]
            start = i * SHARD_ROWS
            assert (records["place"] == np.arange(start, start + len(records))).all(), "a row was lost on its way"
            values[start : start + len(records)] = records["values"]
            origin[start : start + len(records)] = records["origin"]
            Path(file.name).unlink()
        self._scratch.rmdir()


def bytes_needed(n_rows: int, d_mlp: int, itemsize: int) -> int:
    """Free space that writing takes at its peak: all scratch files, and the shards beside them, uncompressed."""
    scratch, final = n_rows * (d_mlp * itemsize + 16), n_rows * (d_mlp * itemsize + 8)
    return scratch + final


def write_shuffled(path: Path, rows: Iterable[HarvestedRows], n_rows: int, d_mlp: int, dtype: np.dtype, seed: int) -> None:
    """All of `rows` (exactly `n_rows`) into `path`/activations.zarr."""
    with ShuffledWriter(path, n_rows, d_mlp, dtype, seed) as writer:
        for block in rows:
            writer.add(block)
        writer.finish({"site_axes": "row d_mlp"})
