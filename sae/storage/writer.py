"""`StoreWriter`: an activation store as idempotent tasks, in any number of processes, killed and started again as often as you
like.

The work lies in `<store>.partial`, and whatever stands there is whole (written aside, synced, renamed), but in `store/`, where a
shard counts only with its record:

    plan.json          what is to be written: a changed parameter, parent or version makes it another plan
    pieces/00007       the rows of task 7, sorted by where they belong (`pieces`)
    joined/00000       pieces 0 ... k as one, where they are many and small
    shards/00003.json  shard 3 is written: the digests of its files
    store/             what becomes the store
    commit             the digest of its record: where the store that stands has it, only sweeping is left (`ended`)

Pieces and records of shards name the plan that they are of, so that none of another one is ever taken.

A row's place is a permutation of its number (`permutation`), so a task needs to know nothing of the others, and who does what, in
which order and how often changes no byte. That is a shuffle in two passes, or three where a shard would read less than
`SLICE_BYTES` from a piece, in memory of `BESIDE` shards and one.
"""

import dataclasses
import hashlib
import json
import shutil
import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from sae import artefact, foreign
from sae.errors import StoreError, disk_told
from sae.exchange import aside
from sae.provenance import Run, elsewhere, sha256_file
from sae.storage import arrays, claim, ended
from sae.storage.checked import CHECKSUMS
from sae.storage.layout import LIVE, SCHEMA, ZARR, Layout, create_arrays
from sae.storage.permutation import Permutation
from sae.storage.pieces import SLICE_BYTES, Piece, Sums, fields_of, join_pieces, write_piece
from sae.storage.shards import Shards
from sae.storage.share import Share

BESIDE = 2
"""Shards that are written while the rows of another are gathered: one computes, the other waits for the disk."""


class StoreWriter:
    """Use as a context manager: it holds the store's lock. `missing` tasks are to be `put`; when none is, `shuffle`, then
    `commit`.

    `run` says what is to be written and from what; with `keep` another plan's unfinished work is refused, otherwise discarded.
    `n_threads` is what the rows are to be computed on, and becomes what the work that lies there was begun on.
    Raises `LockedError` where another process does the same share, or the whole, `StoreError` where anything lies there that is
    no store and no work on one.
    """

    def __init__(
        self,
        target: Path,
        run: Run,
        layout: Layout,
        n_tasks: int,
        *,
        seed: int,
        n_threads: int = 1,
        share: Share | None = None,
        keep: bool = False,
    ):
        self.target, self.run, self.layout, self.n_tasks = artefact.real(target), run, layout, n_tasks
        self.share, self._is_whole, self._keep = share or Share(), share is None, keep
        self.place = Permutation(layout.n_rows, seed)
        """Where row i of the harvest comes in the store."""
        self.path = artefact.partial_of(self.target)
        bytes_of_slice = layout.n_rows * layout.record.itemsize / n_tasks / layout.n_shards
        self._n_joined = min(n_tasks, max(1, int(SLICE_BYTES // bytes_of_slice)))
        """Pieces that are joined into one; 1: none are."""
        self.processor = run.processor
        """Of the machine that the work that lies there was begun on."""
        anywhere = dataclasses.asdict(dataclasses.replace(run, processor={}))
        stated = {"run": anywhere, "layout": vars(layout), "n_tasks": n_tasks, "schema": SCHEMA}
        self._stated = {**stated, "seed": seed, "n_joined": self._n_joined}
        self._settle(n_threads, run.processor)
        self._kinds = (run.kind, LIVE)
        """What may be replaced."""
        self.is_committed = False
        """The store that was to be written stands: an earlier process was killed between its commit and its end, or, to a share,
        others have been faster."""

    def __enter__(self) -> "StoreWriter":
        with ExitStack() as held, self._told():
            artefact.make_parent(self.target)
            held.enter_context(claim.claimed(self.target, None if self._is_whole else self.share))
            with claim.alone(self.target):
                self._begin()
            self._held = held.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._held.close()

    def missing(self) -> list[int]:
        """Tasks of this process's share that have no piece."""
        return [task for task in self._absent() if task % self.share.n == self.share.first]

    def n_waited_for(self) -> int:
        """Pieces that are not there, whoever is to make them."""
        return len(self._absent())

    def put(self, task: int, records: np.ndarray, sums: Sums) -> None:
        """The piece of a task: `records` of `layout.record`, in the order of their places, which `place` tells."""
        with self._told():
            write_piece(self._piece(task), self.layout, self._plan_digest, records, sums)

    def join(self) -> int:
        """Join this share's pieces where they are many and small; returns how many are still to be joined, whoever is to do it.
        Raises `DamagedPieceError`."""
        if self._n_joined == 1:
            return 0
        firsts = range(0, self.n_tasks, self._n_joined)
        with self._told():
            for first in firsts[self.share.first :: self.share.n]:
                tasks = range(first, min(first + self._n_joined, self.n_tasks))
                if not self._joined(first).exists():
                    parts = [Piece(self._piece(task), self.layout, self._plan_digest) for task in tasks]
                    join_pieces(self._joined(first), self.layout, self._plan_digest, parts)
                for task in tasks:
                    self._piece(task).unlink(missing_ok=True)
        return sum(not self._joined(first).exists() for first in firsts)

    def dropped(self) -> list[int]:
        """Places that no piece has a row for, as theirs was not finite. All must be there, and joined."""
        if self._spare.exists():
            return []
        return sorted(place for piece in self._pieces() for place in piece.sums.dropped)

    def put_spare(self, records: np.ndarray, sums: Sums) -> None:
        """Rows for the places that `dropped` names, in their order."""
        with self._told():
            write_piece(self._spare, self.layout, self._plan_digest, records, sums)

    def shuffle(self) -> None:
        """Write this share's shards that are missing, `BESIDE` of them while the rows of the next are gathered. Raises
        `DamagedPieceError`."""
        with self._told():
            pieces, group, shards = self._pieces(), self._group(), self._shards
            with ThreadPoolExecutor(BESIDE) as beside:
                writing: deque[Future[None]] = deque()
                for shard in range(self.share.first, self.layout.n_shards, self.share.n):
                    if not shards.is_written(shard):
                        if len(writing) == BESIDE:
                            writing.popleft().result()
                        writing.append(beside.submit(shards.write, shard, self._gathered(shard, pieces), group))
                for each in writing:
                    each.result()

    def n_unwritten(self) -> int:
        """Shards that are missing, whoever is to write them."""
        return self._shards.n_unwritten()

    def commit(self, facts: dict[str, object]) -> None:
        """The store, in place of whatever was there; its record is written last. Not for a share: two would be at it at once."""
        assert self._is_whole, "others may be at work"
        assert self.n_unwritten() == 0, "shards are missing"
        with self._told():
            of_all = Sums.join([piece.sums for piece in self._pieces()])
            mean = of_all.total / self.layout.n_rows
            shutil.rmtree(self._store / ZARR / "mean", ignore_errors=True)
            arrays.write_array(self._group(), "mean", mean, ("d_mlp",))
            stated = {
                "store_schema": SCHEMA,
                "n_threads": self.n_threads,
                **vars(self.layout),
                "mean_norm": of_all.norm / self.layout.n_rows,
                "mean_square_norm": of_all.square / self.layout.n_rows,
                "square_norm_of_mean": float(np.square(mean).sum()),
                "n_dropped": len(of_all.dropped),
                "mean": mean.tolist(),
                CHECKSUMS: self._shards.checksums(),
            }
            if elsewhere(self.processor, self.run.processor):
                stated["begun_on"] = self.processor
            processor = {**self.run.processor, "threads": self.n_threads}
            run = dataclasses.replace(self.run, facts={**stated, **facts}, files=self._files(), processor=processor)
            digest = hashlib.sha256(run.to_json().encode()).hexdigest()
            artefact.write_text(self.path / ended.COMMIT, digest)
            artefact.put_in_place(self._store, self.target, run, self._kinds)
            ended.sweep(self.target)

    def _begin(self) -> None:
        """Take up the work that lies there, or begin it."""
        record = self.path / ended.PLAN
        foreign.refuse(self.target, self._kinds)
        if self._is_whole:
            foreign.refuse_draft(aside(self.target), self.run.kind)
            artefact.sweep_aside(self.target)
        done = ended.is_left_over(self.target) or (self.path.is_dir() and not any(self.path.iterdir()))
        if done and self._is_whole:
            ended.sweep(self.target)
        found = record.read_text(encoding="utf-8", errors="replace") if record.is_file() else None
        self._take_threads(found)
        if (done or (found is None and not self._is_whole)) and ended.stands(self.target, self.run):
            self.is_committed = True
            return
        if found is not None and found != self._plan and (self._keep or not self._is_whole):
            raise StoreError(
                f"{self.path} holds unfinished work of another plan, see {record}; finish it, or discard it by running once "
                "without --keep and --shard"
            )
        if found is None and not done:
            foreign.refuse_draft(self.path, self.run.kind)
        if found != self._plan and self._is_whole and self.path.exists():
            foreign.remove(self.path)
        if not self.path.exists():
            foreign.mark(self.path)
        for name in ("pieces", "joined", "shards", "store"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        if found != self._plan:
            artefact.write_text(record, self._plan)
        elif told := elsewhere(self.processor, self.run.processor):
            print(f"harvest: {self.path} goes on; {told}", file=sys.stderr)
        if self._is_whole:  # beside other shares these may be at work
            for stray in artefact.files_below(self.path):
                if stray.suffix == ".partial" and stray.name != foreign.MARK:
                    stray.unlink()

    def _told(self) -> AbstractContextManager[None]:
        return disk_told(f"writing {self.target}")

    def _settle(self, n_threads: int, processor: dict[str, str | int]) -> None:
        self.n_threads, self.processor = n_threads, processor
        told = {"n_threads": n_threads, "processor": processor}
        self._plan = json.dumps({**self._stated, **told}, indent=1, sort_keys=True)
        self._plan_digest = hashlib.sha256(self._plan.encode()).hexdigest()

    def _take_threads(self, found: str | None) -> None:
        """Work that was begun on another number of threads is no other plan: it goes on with that number. Nor is that of another
        processor, of which is told what that means."""
        own = self.n_threads
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            plan = json.loads(found or "{}")
            self._settle(int(plan["n_threads"]), dict(plan["processor"]))
        if self._plan != found:
            self._settle(own, self.run.processor)

    def _gathered(self, shard: int, pieces: list[Piece]) -> dict[str, np.ndarray]:
        """The fields of a shard's rows, in their order."""
        fields = fields_of(pieces, shard, self.layout)
        if fields is None:
            raise StoreError(f"the pieces in {self.path} do not make up shard {shard}; remove {self.path} and harvest again")
        return fields

    def _files(self) -> dict[str, str]:
        """Digests of all files of the store; what does not belong to it (of someone killed) is removed."""
        files = self._shards.files()
        for file in artefact.files_below(self._store):
            name = file.relative_to(self._store).as_posix()
            if name not in files:
                if file.name == "zarr.json" or name.startswith(f"{ZARR}/mean/"):
                    files[name] = sha256_file(file)
                    artefact.sync(file)
                else:
                    file.unlink()
        return dict(sorted(files.items()))

    def _group(self) -> arrays.Group:
        """The group with its empty arrays; their descriptions are written anew each time, whatever became of them."""
        fresh = self.path / f"{ZARR}.{self.share.first}.fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        create_arrays(fresh, self.layout)
        for file in artefact.files_below(fresh):
            to = self._store / ZARR / file.relative_to(fresh)
            to.parent.mkdir(parents=True, exist_ok=True)
            file.replace(to)
        shutil.rmtree(fresh)
        return arrays.open_to_write(self._store / ZARR)

    def _pieces(self) -> list[Piece]:
        """All that make up the store, in the order of tasks. Raises `DamagedPieceError`."""
        if self._n_joined == 1:
            paths = [self._piece(task) for task in range(self.n_tasks)]
        else:
            paths = [self._joined(first) for first in range(0, self.n_tasks, self._n_joined)]
        return [
            Piece(path, self.layout, self._plan_digest) for path in (*paths, *([self._spare] if self._spare.exists() else []))
        ]

    def _absent(self) -> list[int]:
        return [
            task
            for task in range(self.n_tasks)
            if not (self._piece(task).exists() or (self._n_joined > 1 and self._joined(task).exists()))
        ]

    def _piece(self, task: int) -> Path:
        return self.path / "pieces" / f"{task:05d}"

    def _joined(self, task: int) -> Path:
        return self.path / "joined" / f"{task // self._n_joined:05d}"

    @property
    def _spare(self) -> Path:
        return self.path / "pieces" / "spare"

    @property
    def _store(self) -> Path:
        return self.path / "store"

    @property
    def _shards(self) -> Shards:
        return Shards(self.path / "shards", self._store, self.layout, self._plan_digest)
