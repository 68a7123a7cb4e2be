"""`ActivationStore`: rows of MLP activations, globally shuffled, each with the context and position that it came from.

On disk, under `activations.zarr`: `activations` [row, d_mlp], `origin` [row, 2] (context, position) and `mean` [d_mlp].
DVC tracks the store by its `run.json` alone, which holds the digest of every other file: hashing terabytes would take hours.
"""

import hashlib
import json
import os
from collections.abc import Generator, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from sae import artefact
from sae.errors import ConfigError, StoreError
from sae.opened import steadily
from sae.provenance import Run
from sae.shapes import RowOrigins, Rows
from sae.storage import arrays, prefetch
from sae.storage.checked import CHECKSUMS, CheckedChunks, check_listed, check_small
from sae.storage.dataset import RowsDataset, at_least
from sae.storage.layout import FIELDS, Stored, from_disk, layout_of
from sae.storage.linked import AT_ONCE, Linked, folder_of
from sae.storage.order import Order
from sae.storage.ranged import RangedFile, ranged_files

CHUNKS_MIXED = 16
"""Chunks whose rows are mixed when batches are drawn: 128 MiB."""
RUN_ROWS, RUN_BYTES = 4, 2**12
"""Rows that stay together while they are mixed: as many as fit the bytes, at most so many. Runs of 4 rows of 1 KiB are gathered
in 0.106 CPU seconds a GiB, single rows in 0.157, runs of 16 in 0.095."""
MOST_THREADS = 4
"""That read ahead, unless more are asked for."""


class ActivationStore:
    """A committed store, opened with `ActivationStore.open(path)`. `store[a:b]` are rows as numpy, `len(store)` their number."""

    def __init__(self, path: Path, run: Run, group: arrays.Group, ranged: Mapping[str, RangedFile] | None = None):
        self.path, self.run = path, run
        self.layout = layout_of(path, run)
        rows, origin = (arrays.get_array(group, name) for name, _ in FIELDS)
        self.n_rows, self.d_mlp = rows.shape
        self.dtype: Stored = self.layout.dtype
        """Of the numbers on disk; bfloat16 lies in uint16."""
        self.chunk_rows: int = rows.chunks[0]
        stated = run.facts.get("n_rows")
        if self.n_rows != stated or origin.shape[0] != self.n_rows:
            raise StoreError(f"{path} holds {self.n_rows} rows where its record says {stated}; harvest again")
        self._rows, self._origin = (
            CheckedChunks(path, run, name, self.layout, array, ranged)
            for (name, _), array in zip(FIELDS, (rows, origin), strict=True)
        )

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows as they lie on disk, but bfloat16 as float32."""
        values = self._rows.read(rows)
        return from_disk(values, self.dtype).numpy() if self.dtype == "bfloat16" else values

    def origin(self, rows: slice = slice(None)) -> RowOrigins:
        """(context, position) of the rows, indices into the train split of the token store."""
        return self._origin.read(rows)

    @property
    def mean_square_norm(self) -> float:
        """Mean over rows of ‖x‖², as harvested."""
        value = self.run.facts.get("mean_square_norm")
        if not isinstance(value, float):
            raise StoreError(f"the record of {self.path} says nothing of its mean square norm ({value!r}); harvest again")
        return value

    @property
    def identity(self) -> dict[str, str]:
        """Digest of all rows' checksums: checkpoints of a training on other rows are told by it, whatever the first batch is."""
        return {"rows": hashlib.sha256(json.dumps(self.run.facts[CHECKSUMS], sort_keys=True).encode()).hexdigest()}

    def batches(
        self,
        n_rows: int,
        *,
        seed: int = 0,
        start: int = 0,
        threads: int | None = None,
        pin: bool | None = None,
        raw: bool = False,
    ) -> "Batches":
        """Endless float32 batches of exactly `n_rows`, from batch `start` on; batch k depends on `seed` and k alone.

        Every row comes once an epoch, in another order each epoch: the store is shuffled as it lies; each epoch also permutes
        the order of its chunks, and runs of up to `RUN_ROWS` rows within `CHUNKS_MIXED` chunks. What an epoch leaves over begins
        the next one.

        `threads` (by default as many as there are cores, 4 at most; 8 where chunks are read by ranges) read ahead. In memory
        there are at most 2 `CHUNKS_MIXED` chunks before compression, and (threads + 2) batches besides those that the caller
        holds; where compressed chunks are read by ranges, one of those a thread. `pin`: page-locked, for copies to a GPU; by
        default where this process uses one by the time of the first batch. `raw`: in the type that the store keeps, so that half
        as many bytes are copied. Raises `ConfigError` for more rows than the store
        has, and for numbers that are none of these.
        """
        at_least(0, start=start)
        made = prefetch.batches(self._plan(n_rows, seed, threads=threads, pin=pin, raw=raw), count(start))
        return Batches(made, n_rows=n_rows, seed=seed, start=start)

    def dataset(self, n_rows: int, **options: Any) -> RowsDataset:
        """The same batches for torch's DataLoader, over its workers and several ranks; `RowsDataset` tells the options."""
        return RowsDataset(self._plan(n_rows, options.pop("seed", 0), threads=options.pop("threads", None)), **options)

    def _plan(
        self, n_rows: int, seed: int, *, threads: int | None = None, pin: bool | None = None, raw: bool = False
    ) -> prefetch.Plan:
        at_least(1, n_rows=n_rows, threads=1 if threads is None else threads)
        at_least(0, seed=seed)
        if n_rows > self.n_rows:
            raise ConfigError(
                f"batches of {n_rows} rows from a store of {self.n_rows}; harvest more rows or take smaller batches"
            )
        run_rows = max(1, min(RUN_ROWS, RUN_BYTES // (self.d_mlp * self.layout.on_disk.itemsize)))
        return prefetch.Plan(
            order=Order(self.n_rows, self.chunk_rows, CHUNKS_MIXED, seed, run_rows),
            n_rows=n_rows,
            d_mlp=self.d_mlp,
            dtype=self.dtype,
            chunks=self._rows,
            threads=threads or (AT_ONCE if self._rows.over_network else min(MOST_THREADS, len(os.sched_getaffinity(0)))),
            pin=pin,
            raw=raw,
        )

    @classmethod
    def open(cls, path: str | Path, *, cache: bool | None = None) -> "ActivationStore":
        """A store's folder, or the URL of one in a bucket (s3://, gs://, az://).

        Shards that lie in a bucket alone are kept in a folder when they are first read (`cache`), or never, and read by ranges
        of bytes in every epoch (`cache=False`, or SAE_CACHE=none in the environment). By default they are kept where the
        folder's disk has room for all of them, and a tenth more.

        Raises `StoreError` where the store is missing, unfinished, lacks a file, or one is damaged (of the shards, which are
        large, each chunk is compared with its checksum whenever it is read), `UnavailableError` where a bucket gives no
        answer."""
        folder = folder_of(path)
        return steadily(folder, lambda: cls._open(folder, cache))

    @classmethod
    def _open(cls, path: Path, cache: bool | None) -> "ActivationStore":
        run = artefact.read_run(path, "activations", made_by="dvc repro harvest")
        layout = layout_of(path, run)
        check_small(path, run, layout)  # before zarr, which takes some damaged descriptions, and stumbles over others
        linked = Linked.of(path, run)
        elsewhere = check_listed(path, run, layout) if linked else frozenset[str]()
        group = arrays.open_group(path / "activations.zarr", run, may_lack=elsewhere)
        return cls(path, run, group, ranged_files(linked, sorted(elsewhere), layout.n_bytes, cache) if linked else None)


class Batches(Iterator[Rows]):
    """What `ActivationStore.batches` gives. Its threads end when it is closed or forgotten."""

    def __init__(self, made: Generator[Rows, None, None], *, n_rows: int, seed: int, start: int):
        self._made, self._n_rows, self._seed, self._next = made, n_rows, seed, start

    def __next__(self) -> Rows:
        batch = next(self._made)
        self._next += 1
        return batch

    def state(self) -> dict[str, int]:
        """Where it is: `store.batches(**state)` goes on with the batch that would have come next."""
        return {"n_rows": self._n_rows, "seed": self._seed, "start": self._next}

    def close(self) -> None:
        """End its threads; there are no more batches."""
        self._made.close()
