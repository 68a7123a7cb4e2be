"""`ActivationStore`: rows of MLP activations, globally shuffled, each with the context and position that it came from.

On disk, under `activations.zarr`: `activations` [row, d_mlp], `origin` [row, 2] (context, position) and `mean` [d_mlp].
DVC tracks the store by its `run.json` alone, which holds the digest of every other file: hashing terabytes would take hours.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sae import artefact
from sae.chance import generator
from sae.errors import ConfigError, StoreError
from sae.provenance import Run
from sae.shapes import RowOrigins, Rows
from sae.storage import arrays
from sae.storage.checked import CheckedShards, check_small, may_lack
from sae.storage.layout import FIELDS, Stored, from_disk, layout_of
from sae.storage.linked import folder_of

CHUNKS_MIXED = 16
"""Chunks that are read, joined and permuted together when batches are drawn: 128 MiB."""


class ActivationStore:
    """A committed store, opened with `ActivationStore.open(path)`. `store[a:b]` are rows as numpy, `len(store)` their number."""

    def __init__(self, path: Path, run: Run, group: arrays.Group):
        self.path, self.run = path, run
        self.layout = layout_of(path, run)
        self._rows = arrays.get_array(group, "activations")
        self._origin = arrays.get_array(group, "origin")
        self.n_rows, self.d_mlp = self._rows.shape
        self.dtype: Stored = self.layout.dtype
        """Of the numbers on disk; bfloat16 lies in uint16."""
        self.chunk_rows: int = self._rows.chunks[0]
        stated = run.facts.get("n_rows")
        if self.n_rows != stated or self._origin.shape[0] != self.n_rows:
            raise StoreError(f"{path} holds {self.n_rows} rows where its record says {stated}; harvest again")
        self._checked_rows, self._checked_origin = (CheckedShards(path, run, name, self.layout) for name, _ in FIELDS)

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows as they lie on disk, but bfloat16 as float32."""
        values = self._read(rows)
        return from_disk(values, self.dtype).numpy() if self.dtype == "bfloat16" else values

    def origin(self, rows: slice = slice(None)) -> RowOrigins:
        """(context, position) of the rows, indices into the train split of the token store."""
        self._checked_origin.check(rows)
        return arrays.read(self._origin, rows)

    def _read(self, rows: slice) -> np.ndarray:
        self._checked_rows.check(rows)
        return arrays.read(self._rows, rows)

    @property
    def mean_square_norm(self) -> float:
        """Mean over rows of ‖x‖², as harvested."""
        value = self.run.facts.get("mean_square_norm")
        if not isinstance(value, float):
            raise StoreError(f"the record of {self.path} says nothing of its mean square norm ({value!r}); harvest again")
        return value

    def batches(self, n_rows: int, *, seed: int = 0, start: int = 0) -> Iterator[Rows]:
        """Endless float32 batches of exactly `n_rows`, from batch `start` on; batch k depends on `seed` and k alone.

        Every row comes once an epoch, in another order each epoch: the store is shuffled as it lies; each epoch also permutes
        the order of its chunks, and the rows within `CHUNKS_MIXED` chunks. What an epoch leaves over begins the next one. One
        thread reads ahead.
        """
        if n_rows > self.n_rows:
            raise ConfigError(
                f"batches of {n_rows} rows from a store of {self.n_rows}; harvest more rows or take smaller batches"
            )
        epoch, skipped = divmod(start * n_rows, self.n_rows)
        left = np.empty((0, self.d_mlp), dtype=self._rows.dtype)
        for block in _read_ahead(self._blocks(seed, epoch, skipped)):
            block = np.concatenate([left, block])
            n_whole = len(block) // n_rows * n_rows
            for first in range(0, n_whole, n_rows):
                yield from_disk(block[first : first + n_rows], self.dtype)
            left = block[n_whole:]

    def _blocks(self, seed: int, epoch: int, skipped: int) -> Iterator[np.ndarray]:
        """Mixed blocks from row `skipped` of `epoch` on; blocks that lie wholly before it are not read."""
        step = self.chunk_rows
        n_chunks = -(-self.n_rows // step)
        while True:
            order = generator(seed, "order of chunks", epoch).permutation(n_chunks)
            for start in range(0, n_chunks, CHUNKS_MIXED):
                chunks = [slice(i * step, min((i + 1) * step, self.n_rows)) for i in order[start : start + CHUNKS_MIXED]]
                size = sum(chunk.stop - chunk.start for chunk in chunks)
                if skipped >= size:
                    skipped -= size
                    continue
                self._checked_rows.check(*chunks)
                block = np.concatenate([self._read(chunk) for chunk in chunks])
                yield block[generator(seed, "order of rows", epoch, start).permutation(size)[skipped:]]
                skipped = 0
            epoch += 1

    @classmethod
    def open(cls, path: str | Path) -> "ActivationStore":
        """A store's folder, or the URL of one in a bucket (s3://, gs://, az://; `storage.linked` says how that is read).

        Raises `StoreError` where the store is missing, unfinished, lacks a file, or one is damaged (of the shards, which are
        large, each is compared with its digest before it is first read); `UnavailableError` where a bucket gives no answer."""
        path = folder_of(path)
        run = artefact.read_run(path, "activations", made_by="dvc repro harvest")
        layout = layout_of(path, run)
        check_small(path, run, layout)  # before zarr, which takes some damaged descriptions, and stumbles over others
        return cls(path, run, arrays.open_group(path / "activations.zarr", run, may_lack=may_lack(path, run, layout)))


def _read_ahead(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(next, blocks)
        while True:
            block = coming.result()
            coming = reader.submit(next, blocks)
            yield block
