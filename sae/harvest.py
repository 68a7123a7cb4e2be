"""Transformer and tokens in, an ActivationStore out (Towards Monosemanticity, "Dataset": a fixed number of tokens from
each context, then a global shuffle, so that a batch mixes contexts).

The contexts are cut into tasks of whole batches of the forward pass, so that a row has the same bits whoever computes it, and
when. `storage.writer` keeps what is done.
"""

import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae.errors import ConfigError, CorpusError, DiskError, NumericsError
from sae.progress import ProgressBar
from sae.provenance import Run
from sae.source.site import ActivationSource, Frozen
from sae.storage.arrays import Codec
from sae.storage.layout import Layout, Stored, from_disk, to_disk
from sae.storage.pieces import DamagedPieceError, Sums
from sae.storage.positions import Positions
from sae.storage.share import Share
from sae.storage.tokens import Contexts, Split, to_tensor
from sae.storage.writer import StoreWriter

TASK_BYTES = 2**26
"""Of rows in one task, or so: what is held in memory (twice), and what a kill costs (twice too)."""
PROBE_SECONDS = 0.5
BYTES_PER_SECOND = 1e8
"""At which rows become pieces, and those a store, on one core: 9 to 12 ms a MiB, half of it the codec's (docs/log.md)."""


@dataclass(frozen=True, kw_only=True)
class HarvestConfig:
    """Section `harvest`."""

    n_rows: int = 1_048_576
    """Rows in the store, exactly."""
    positions_per_context: int = 32
    """Positions taken from each context, sampled without replacement (the paper: 250 of its undisclosed context length). Where
    the tokens say which positions count (`tokens.pad`), of those; a context with fewer gives what it has."""
    skip_bos: bool = True
    """Leave out position 0 of contexts that begin with BOS: its activation is the same vector every time."""
    batch_contexts: int = 32
    """Contexts in one forward pass."""
    dtype: Stored = "float16"
    """Of the store."""
    codec: Codec = "none"
    """Of the store's chunks: none, zstd or lz4; what each costs, and why this is the default, stands in docs/store.md."""
    nonfinite: Literal["stop", "drop"] = "stop"
    """What a row with NaN, infinity, or a number too large for `dtype` does: stop the harvest, or be left out, counted, and
    replaced by one of a later context."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_rows", "positions_per_context", "batch_contexts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be at least 1")


class Harvested(NamedTuple):
    """Rows of some consecutive contexts."""

    values: np.ndarray
    """[row, d_mlp], in the store's type."""
    origin: np.ndarray
    """(context, position), uint32 [row, 2]."""
    finite: np.ndarray
    """Whether the row is, bool [row]."""


class Taken(NamedTuple):
    """Rows of one forward pass, where they were computed."""

    values: Tensor
    """[row, d_mlp], in the store's type, on the source's device."""
    origin: np.ndarray
    """(context, position), uint32 [row, 2]."""
    finite: np.ndarray
    """Whether the row is, bool [row]."""


class Plan:
    """Which positions of which contexts become rows, and which task takes which contexts. Refuses what the corpus cannot give."""

    def __init__(self, config: HarvestConfig, split: Split, bos: int | None, d_mlp: int):
        self.config, self.layout = config, Layout(config.n_rows, d_mlp, config.dtype, codec=config.codec)
        self.per_context = config.positions_per_context
        self.positions = Positions(
            split,
            bos,
            n_rows=config.n_rows,
            per_context=config.positions_per_context,
            skip_bos=config.skip_bos,
            seed=config.seed,
        )
        self.n_contexts = self.positions.n_contexts
        batch_bytes = config.batch_contexts * self.per_context * self.layout.record.itemsize
        self.contexts_per_task = config.batch_contexts * max(1, TASK_BYTES // batch_bytes)
        self.n_tasks = -(-self.n_contexts // self.contexts_per_task)

    def contexts(self, task: int) -> range:
        first = task * self.contexts_per_task
        return range(first, min(first + self.contexts_per_task, self.n_contexts))

    def rows(self, task: int) -> range:
        """Of the harvest, which the writer permutes; the last context may give fewer than it has."""
        return self.positions.rows(self.contexts(task))

    @property
    def peak_bytes(self) -> int:
        """Disk that writing takes at its most: all pieces, and the store beside them, uncompressed."""
        return self.config.n_rows * self.layout.record.itemsize + self.layout.n_bytes

    @property
    def memory_bytes(self) -> int:
        """Memory of a process at its most, however large the store: what a task or a shard takes, beside the transformer, its
        forward pass and the packages (measured: docs/store.md)."""
        task = self.contexts_per_task * self.per_context * self.layout.record.itemsize
        shard = min(self.layout.shard_rows, self.layout.n_rows) * self.layout.record.itemsize
        return max(8 * task, 4 * shard) + 2**24


def harvest(
    source: ActivationSource,
    split: Split,
    bos: int | None,
    config: HarvestConfig,
    target: Path,
    run: Run,
    *,
    share: Share | None = None,
    keep: bool = False,
) -> bool:
    """Make the store `target`, or this process's `share` of it; what an earlier call has done is taken up where it stopped.

    True where the store is committed. A share ends with False: others may be at work, so a call without one commits, when all
    are done; a share that is run again where all pieces are there writes its part of the shards. Torch computes on as many
    threads as the work was begun with. `run` says from what it is made and is its identity: work under another one is discarded
    (or, with `keep`, refused). Raises `DiskError` before any work where the disk is too small, `NumericsError` for rows that are
    not finite, `LockedError` where another process is at it.
    """
    plan = Plan(config, split, bos, source.d_mlp)
    with (
        StoreWriter(
            target,
            run,
            plan.layout,
            plan.n_tasks,
            seed=config.seed,
            n_threads=torch.get_num_threads(),
            share=share,
            keep=keep,
        ) as writer,
        on_threads(writer.n_threads),
    ):
        while not writer.is_committed:
            todo = writer.missing()
            if todo:
                check_space(writer.path, plan.peak_bytes * len(todo) // plan.n_tasks)
                _do_tasks(todo, source.frozen(), split, plan, writer)
            if writer.n_waited_for():
                return False
            try:
                if writer.join():
                    return False
                gaps = np.array(writer.dropped(), np.int64)
                if len(gaps) and share is not None:
                    return False
                if len(gaps):
                    _fill_gaps(gaps, source.frozen(), split, plan, writer)
                writer.shuffle()
            except DamagedPieceError as error:
                error.path.unlink(missing_ok=True)  # its tasks are missing again
                continue
            if share is not None:
                return False
            writer.commit({"n_contexts": plan.n_contexts})
            break
        return True


@contextmanager
def on_threads(n: int) -> Iterator[None]:
    """Within it torch computes on `n` threads: the order of its sums, and so the last bits of a row, go by their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _do_tasks(todo: Sequence[int], source: Frozen, split: Split, plan: Plan, writer: StoreWriter) -> None:
    """Each task's rows are written while those of the next are computed: a disk is waited for only where it is slower. So the
    rows of two tasks are held.
    """
    n_rows = sum(len(plan.rows(task)) for task in todo)
    with ProgressBar("harvest", n_rows) as bar, ThreadPoolExecutor(1) as beside:
        written: Future[None] | None = None
        for task in todo:
            rows = plan.rows(task)
            places = writer.place(np.arange(rows.start, rows.stop))
            records, sums = _as_records(plan.layout, harvested(source, split, plan, plan.contexts(task)), places)
            if written is not None:
                written.result()
            written = beside.submit(writer.put, task, records, sums)
            bar.advance(len(rows))
        if written is not None:
            written.result()


def _fill_gaps(gaps: np.ndarray, source: Frozen, split: Split, plan: Plan, writer: StoreWriter) -> None:
    """Rows of contexts beyond the plan's in the places `gaps` of those that were dropped."""
    found: list[Harvested] = []
    rest = range(plan.n_contexts, split.n_contexts)
    for rows in harvested(source, split, plan, rest):
        found.append(Harvested(*(part[rows.finite] for part in rows)))
        if sum(len(one.values) for one in found) >= len(gaps):
            writer.put_spare(*_as_records(plan.layout, found, gaps))
            return
    raise CorpusError(
        f"{len(gaps)} of {plan.config.n_rows} rows were not finite and were dropped; the {len(rest)} contexts beyond those "
        "harvested do not make up for them: lower harvest.n_rows, or give a larger corpus"
    )


def seconds_needed(source: ActivationSource, split: Split, plan: Plan) -> float:
    """Wall seconds, or so, that the whole harvest takes one process here: the first batches are timed for `PROBE_SECONDS`, the
    very first, which faults memory in, only if there is no other. Raises `NumericsError` as the harvest would."""
    clock = [time.perf_counter()]
    for _ in harvested(source.frozen(), split, plan, range(min(plan.n_contexts, plan.contexts_per_task))):
        clock.append(time.perf_counter())
        if clock[-1] - clock[0] > PROBE_SECONDS:
            break
    spent = np.diff(clock)
    n_batches = -(-plan.n_contexts // plan.config.batch_contexts)
    of_rows = plan.config.n_rows * plan.layout.record.itemsize / BYTES_PER_SECOND
    return n_batches * float(np.median(spent[1:] if len(spent) > 1 else spent)) + of_rows


def _as_records(layout: Layout, parts: Iterable[Harvested], places: np.ndarray) -> tuple[np.ndarray, Sums]:
    """The first rows of `parts`, as many as there are `places`, in the order of those; without the ones that are not finite.

    Each batch goes straight to where its rows belong, while it is in the cache: joined first and sorted then, the rows of a task
    are copied three times more."""
    records, finite, sums, done = np.empty(len(places), layout.record), np.empty(len(places), bool), [], 0
    rank = np.empty(len(places), np.int64)
    rank[np.argsort(places)] = np.arange(len(places))
    records["place"][rank] = places
    for part in parts:
        values, origin, is_finite = (each[: len(places) - done] for each in part)
        into = rank[done : done + len(values)]
        records["values"][into], records["origin"][into], finite[into] = values, origin, is_finite
        sums.append(Sums.of(from_disk(values if is_finite.all() else values[is_finite], layout.dtype)))
        done += len(values)
    of_all = replace(Sums.join(sums), dropped=tuple(records["place"][~finite].tolist()))
    return (records if finite.all() else records[finite]), of_all


def take(source: Frozen, plan: Plan, start: int, batch: Contexts) -> Taken:
    """The planned rows of `batch`, contexts from number `start` on, in one forward pass: all that decides a row's bits.

    Raises `NumericsError` for one that is not finite in the store's type, unless such are dropped."""
    tokens = to_tensor(batch.tokens, source.device)
    positions, taken = plan.positions.choose(start, batch)
    exact = source.activations_at(tokens, torch.from_numpy(positions).to(tokens.device)).flatten(0, 1).float()
    origin = np.stack([np.repeat(np.arange(start, start + len(tokens)), plan.per_context), positions.ravel()], axis=1)
    if taken is not None:
        exact, origin = exact[torch.from_numpy(taken.ravel()).to(exact.device)], origin[taken.ravel()]
    finite = (exact.abs().amax(1) <= plan.layout.most).cpu().numpy()  # False for NaN too
    if not finite.all() and plan.config.nonfinite == "stop":
        _refuse(exact, origin, start, batch, plan)
    return Taken(exact.to(getattr(torch, plan.layout.dtype)), origin.astype(np.uint32), finite)


def harvested(source: Frozen, split: Split, plan: Plan, contexts: range) -> Iterator[Harvested]:
    """The planned rows of `contexts`, by batches. Raises `NumericsError` for one that is not finite, unless such are dropped."""
    for start, batch in _batches(split, contexts, plan):
        rows = take(source, plan, start, batch)
        yield Harvested(to_disk(rows.values, plan.layout.dtype), rows.origin, rows.finite)


def _batches(split: Split, contexts: range, plan: Plan) -> Iterator[tuple[int, Contexts]]:
    """Batches of the forward pass, each with its first context's number; what a task takes is read at once."""
    for first in range(contexts.start, contexts.stop, plan.contexts_per_task):
        block = split[first : min(first + plan.contexts_per_task, contexts.stop)]
        for start in range(0, len(block.tokens), plan.config.batch_contexts):
            yield first + start, block.part(slice(start, start + plan.config.batch_contexts))


def _refuse(taken: Tensor, origin: np.ndarray, start: int, batch: Contexts, plan: Plan) -> None:
    bad = ~(taken.abs() <= plan.layout.most).cpu().numpy()
    row, neuron = np.argwhere(bad)[0]
    context, position = origin[row]
    document = batch.document[context - start, position]
    raise NumericsError(
        f"activation {taken[row, neuron]} of neuron {neuron} at train context {context}, position {position} (document "
        f"{document}) is not finite in {plan.layout.dtype}; the transformer is broken, or its activations exceed "
        f"{plan.layout.most:.0f}: see harvest.dtype, and harvest.nonfinite: drop"
    )


def check_space(path: Path, needed: int) -> None:
    """Raises `DiskError` where fewer than `needed` bytes are free on the disk of `path`."""
    free = shutil.disk_usage(path).free
    if free < needed:
        raise DiskError(
            f"the harvest needs {needed / 2**30:.1f} GiB at its peak, {free / 2**30:.1f} GiB are free on the disk of "
            f"{path.parent}; free some, or lower harvest.n_rows"
        )
