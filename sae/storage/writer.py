"""`StoreWriter`: an activation store as idempotent tasks, in any number of processes, killed and started again as often as you like.

The work lies in `<store>.partial`, and whatever stands there is whole (written aside, synced, renamed):

    plan.json          what is to be written: a changed parameter, parent or version makes it another plan
    pieces/00007       the rows of task 7, sorted by where they belong (`pieces`)
    joined/00000       pieces 0 ... k as one, where they are many and small
    shards/00003.json  shard 3 is written: the digests of its files
    store/             what becomes the store

A row's place is a permutation of its number (`permutation`), so a task needs to know nothing of the others, and who does what, in
which order and how often changes no byte. That is a shuffle in two passes, or three where a shard would read less than
`SLICE_BYTES` from a piece, in memory of one shard.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from sae import artefact
from sae.errors import ConfigError, LockedError, StoreError
from sae.provenance import Run, sha256_file
from sae.storage import arrays
from sae.storage.layout import Layout
from sae.storage.permutation import Permutation
from sae.storage.pieces import SLICE_BYTES, DamagedPieceError, Piece, Sums, join_pieces, write_piece

SCHEMA = 2
"""Of the store's format (docs/store.md); 1 had no `mean`, and zeros for fill values."""
SPARE = "spare"
"""The piece with the rows that stand in for those left out."""


class Share(NamedTuple):
    """Which of several processes this one is: it does every `n`-th task, from `index` on."""

    index: int = 0
    n: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """From `i/N`, i from 0."""
        try:
            share = cls(*(int(part) for part in text.split("/")))
        except (ValueError, TypeError):
            share = cls(0, 0)
        if not 0 <= share.index < share.n:
            raise ConfigError(f"shard {text!r}: must be i/N with i from 0 to N - 1, such as 0/4")
        return share

    @classmethod
    def of_environment(cls) -> "Share | None":
        """What torchrun, a Slurm array or a Kubernetes indexed job says in the environment; None where none does."""
        pairs = (
            ("RANK", "WORLD_SIZE", 0),
            ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))),
            ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", 0),
        )
        for index, n, first in pairs:
            if index in os.environ and n in os.environ:
                return cls.parse(f"{int(os.environ[index]) - first}/{os.environ[n]}")
        return None


class StoreWriter:
    """Use as a context manager: it holds the store's lock. `missing` tasks are to be `put`; when none is, `shuffle`, then `commit`.

    `run` says what is to be written and from what; with `keep` another plan's unfinished work is refused, otherwise discarded.
    Raises `LockedError` where another process does the same share, or the whole.
    """

    def __init__(
        self, target: Path, run: Run, layout: Layout, n_tasks: int, *, seed: int, share: Share | None = None, keep: bool = False
    ):
        self.target, self.run, self.layout, self.n_tasks = target, run, layout, n_tasks
        self.share, self._whole = share or Share(), share is None
        self.place = Permutation(layout.n_rows, seed)
        """Where row i of the harvest comes in the store."""
        self.path = target.with_name(target.name + ".partial")
        self._keep, self._held = keep, ExitStack()
        self._names = [f"{task:05d}" for task in range(n_tasks)]

    def __enter__(self) -> "StoreWriter":
        with self._held as held, artefact.full_disk_told(self.target):
            artefact.make_parent(self.target)
            held.enter_context(artefact.locked(self.target, shared=not self._whole))
            if not self._whole:
                name = f"{self.target.name}.{self.share.index}-of-{self.share.n}"
                held.enter_context(artefact.locked(self.target.with_name(name), shared=False))
            self._begin()
            self._held = held.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._held.close()

    def _begin(self) -> None:
        plan = json.dumps(
            {"run": dataclasses.asdict(self.run), "layout": vars(self.layout), "n_tasks": self.n_tasks, "schema": SCHEMA},
            indent=1,
            sort_keys=True,
        )
        record = self.path / "plan.json"
        found = record.read_text(encoding="utf-8") if record.is_file() else None
        if found != plan:
            if self.path.exists() and self._keep:
                raise StoreError(f"{self.path} holds unfinished work of another plan ({record}); finish or remove it, or leave out --keep")
            if self.path.exists() and not self._whole and found is not None:
                raise StoreError(f"{self.path} holds work of another plan ({record}); run once without --shard to discard it, or remove it")
            shutil.rmtree(self.path, ignore_errors=True)
            for name in ("pieces", "joined", "shards", "store"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            artefact.write_text(record, plan)
        for stray in self.path.rglob("*.partial"):
            if self._whole:  # of someone killed; beside a share others may be at work
                stray.unlink(missing_ok=True)

    def missing(self) -> list[int]:
        """Tasks of this process's share that have no piece."""
        return [task for task in self._absent() if task % self.share.n == self.share.index]

    def _absent(self) -> list[int]:
        joined = self._n_joined()
        return [
            task
            for task, name in enumerate(self._names)
            if not (self._piece(name).exists() or (self.path / "joined" / f"{task // joined:05d}").exists())
        ]

    def put(self, task: int, records: np.ndarray, sums: Sums) -> None:
        """The piece of a task: `records` of `layout.record`."""
        write_piece(self._piece(self._names[task]), self.layout, records, sums)

    def dropped(self) -> list[int]:
        """Places that are still without a row, as theirs were not finite. All pieces must be there."""
        if self._piece(SPARE).exists():
            return []
        return sorted(place for piece in self._sources() for place in piece.sums.dropped)

    def put_spare(self, records: np.ndarray, sums: Sums) -> None:
        """Rows for the places that `dropped` names."""
        write_piece(self._piece(SPARE), self.layout, records, sums)

    def waits_for(self) -> int:
        """How many pieces other processes have still to make."""
        return len(self._absent())

    def remove(self, damaged: Path) -> None:
        """A piece that turned out to be damaged: its tasks are missing again."""
        damaged.unlink(missing_ok=True)

    def shuffle(self) -> Iterator[int]:
        """Write the shards that are missing; yields the rows of each. Raises `DamagedPieceError`."""
        for name in self._names:
            self._join(int(name))
        group = self._group()
        sources = list(self._sources())
        for shard in range(self.layout.n_shards):
            if shard % self.share.n != self.share.index or self._is_written(shard):
                continue
            rows = self.layout.shard(shard)
            records = np.concatenate([piece.records(shard) for piece in sources])
            order = np.argsort(records["place"], kind="stable")
            if not np.array_equal(records["place"][order], np.arange(rows.start, rows.stop)):
                raise StoreError(f"the pieces in {self.path} do not make up shard {shard}; remove {self.path} and harvest again")
            for name in ("values", "origin"):
                array = arrays.get_array(group, "activations" if name == "values" else name)
                array[rows] = records[name][order]
            self._written(shard)
            yield rows.stop - rows.start

    def commit(self, facts: dict[str, object]) -> None:
        """The store, in place of whatever was there; the record of it is written last. Raises `StoreError` where shards are missing."""
        files: dict[str, str] = {}
        for shard in range(self.layout.n_shards):
            record = self._record(shard)
            if not record.is_file():
                raise StoreError(f"shard {shard} of {self.target} is not written yet: another process is at it, or was killed")
            files |= json.loads(record.read_text(encoding="utf-8"))
        store, sums = self.path / "store", [piece.sums for piece in self._sources()]
        self._group()
        total: np.ndarray = np.sum([one.total for one in sums], axis=0) / self.layout.n_rows
        arrays.write_array(arrays.create_group(store / "mean.zarr"), "mean", total, ("d_mlp",))
        for file in sorted(store.rglob("*")):
            name = file.relative_to(store).as_posix()
            if file.is_file() and name not in files:
                if "/c/" in name and not name.startswith("mean.zarr"):
                    file.unlink()  # left by someone killed
                else:
                    files[name] = sha256_file(file)
                    artefact.sync(file)
        stated = {
            "n_rows": self.layout.n_rows,
            "d_mlp": self.layout.d_mlp,
            "dtype": self.layout.dtype,
            "chunk_rows": self.layout.chunk_rows,
            "store_schema": SCHEMA,
            "mean_norm": sum(one.norm for one in sums) / self.layout.n_rows,
            "mean_square_norm": sum(one.square for one in sums) / self.layout.n_rows,
            "square_norm_of_mean": float(np.square(total).sum()),
            "n_dropped": sum(len(one.dropped) for one in sums),
        }
        artefact.commit(store, self.target, dataclasses.replace(self.run, facts={**stated, **facts}, files=dict(sorted(files.items()))))
        shutil.rmtree(self.path)

    def _piece(self, name: str) -> Path:
        return self.path / "pieces" / name

    def _record(self, shard: int) -> Path:
        return self.path / "shards" / f"{shard:05d}.json"
