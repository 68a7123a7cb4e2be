"""Batches made ahead of the one who asks for them, by several threads, in memory that does not depend on the size of the store.

The threads load chunks (map, decompress, check) and gather rows of them into batches. All work goes through one queue in the
order in which it is needed: a gathering waits only for chunks that were queued before it, so one thread gets on as well.
While a block's rows are being taken the next one is loaded, a share of its chunks with each batch, so that no batch waits for
a whole block.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import tee
from sys import is_finalizing

import numpy as np
import torch
from torch import Tensor

from sae.shapes import Rows
from sae.storage.buffers import Buffers
from sae.storage.checked import CheckedChunks
from sae.storage.native_gather import gather
from sae.storage.order import Block, Order, Part

BLOCKS = 2
"""In memory at once: the one that rows are taken from, and the next."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which batches are wanted, and how they are made."""

    order: Order
    n_rows: int
    """Of a batch."""
    d_mlp: int
    dtype: str
    """Of the stored numbers."""
    chunks: CheckedChunks
    threads: int
    end: int | None = None
    """Rows, counted over all epochs, after which there are none: the last batch may be shorter."""
    pin: bool | None = None
    """Page-locked batches; None: where this process uses a GPU by the time of the first one."""
    raw: bool = False
    """Numbers as they are stored, not cast to float32."""

    @property
    def given(self) -> torch.dtype:
        """Of the batches."""
        return getattr(torch, self.dtype) if self.raw else torch.float32

    @property
    def ahead(self) -> int:
        """Batches that are made, or being made, before they are asked for."""
        return self.threads + 1

    def parts(self, batch: int) -> list[Part]:
        first = batch * self.n_rows
        n_rows = self.n_rows if self.end is None else min(self.n_rows, self.end - first)
        return list(self.order.parts(first, n_rows))


def batches(plan: Plan, wanted: Iterator[int]) -> Generator[Rows, None, None]:
    """The batches with the numbers `wanted`, which rise. Errors of the threads are raised here, at the batch that they concern.
    When the iterator is closed or forgotten its threads end."""
    pool = ThreadPoolExecutor(plan.threads, thread_name_prefix="sae-read")
    python_ends = is_finalizing  # by then this module has lost its names
    try:
        yield from _batches(plan, wanted, pool)
    finally:
        if not python_ends():  # else Python has ended the threads, and taken apart what would end them
            pool.shutdown(wait=True, cancel_futures=True)


def _batches(plan: Plan, wanted: Iterator[int], pool: ThreadPoolExecutor) -> Iterator[Rows]:
    wanted, again = tee(wanted)
    window, outputs = _Window(plan, pool, _blocks(plan, again)), _outputs(plan)
    coming: deque[tuple[Tensor, list[Future[None]]]] = deque()
    for batch in wanted:
        parts = plan.parts(batch)
        rows, filled, gathering = outputs(sum(part.stop - part.start for part in parts)), 0, []
        for part in parts:
            end = filled + part.stop - part.start
            gathering.append(window.gather(part, _bits(rows[filled:end])))
            filled = end
        coming.append((rows, gathering))
        del rows
        if len(coming) > plan.ahead:
            yield _finished(coming)
    while coming:
        yield _finished(coming)


def _finished(coming: deque[tuple[Tensor, list[Future[None]]]]) -> Tensor:
    rows, gathering = coming.popleft()
    for each in gathering:
        each.result()
    return rows


def _blocks(plan: Plan, wanted: Iterator[int]) -> Iterator[Block]:
    """Those that the wanted batches take rows from, each once."""
    last = None
    for batch in wanted:
        for part in plan.parts(batch):
            if part.block != last:
                yield part.block
            last = part.block


def _outputs(plan: Plan) -> Callable[[int], Tensor]:
    """Makes the tensors for so many rows. torch takes page-locked memory again by itself."""
    if plan.pin or (plan.pin is None and torch.cuda.is_initialized()):
        return lambda n_rows: torch.empty(n_rows, plan.d_mlp, dtype=plan.given, pin_memory=True)
    buffers = Buffers(plan.given.itemsize * plan.n_rows * plan.d_mlp, most=plan.ahead + 1)

    def made(n_rows: int) -> Tensor:
        return torch.from_numpy(buffers.take()).view(plan.given).view(plan.n_rows, plan.d_mlp)[:n_rows]

    return made


def _bits(rows: Tensor) -> np.ndarray:
    """The memory of `rows`: float32, or 16 bits as uint16, since numpy has no bfloat16."""
    return rows.numpy() if rows.dtype == torch.float32 else rows.view(torch.uint16).numpy()


@dataclass
class _Loading:
    """A block whose chunks are there or on their way."""

    block: Block
    chunks: list[int]
    first_rows: np.ndarray
    """Number of each chunk's first row within the block, and of all rows."""
    loaded: list[Future[np.ndarray]] = field(default_factory=list)
    rows: Future[np.ndarray] | None = None
    gathering: list[Future[None]] = field(default_factory=list)


class _Window:
    """The block that rows are taken from, and the next one."""

    def __init__(self, plan: Plan, pool: ThreadPoolExecutor, upcoming: Iterator[Block]):
        self._plan, self._pool, self._upcoming = plan, pool, upcoming
        self._buffers = Buffers(plan.chunks.n_bytes, most=BLOCKS * plan.order.chunks_mixed)
        self._now, self._next = self._begin(), self._begin()

    def _begin(self) -> _Loading | None:
        block = next(self._upcoming, None)
        if block is None:
            return None
        chunks = self._plan.order.chunks(block)
        return _Loading(block, chunks, np.cumsum([0, *map(self._plan.order.rows_of, chunks)]))

    def gather(self, part: Part, out: np.ndarray) -> Future[None]:
        """Queue what fills `out`, after all that it needs."""
        assert self._now is not None
        if part.block != self._now.block:
            wait(self._now.gathering)
            self._now.loaded.clear()  # now, not when a thread lets go of its last task: the next but one wants the memory
            self._now, self._next = self._next, self._begin()
            assert self._now is not None
        now = self._now
        self._load(now, 1.0)
        assert now.rows is not None
        gathering = self._pool.submit(_gather, self._plan, now.loaded, now.rows, now.first_rows, part, [out])
        now.gathering.append(gathering)
        if self._next is not None:
            self._load(self._next, part.stop / now.first_rows[-1])
        return gathering

    def _load(self, which: _Loading, share: float) -> None:
        """Queue the loading of this share of a block's chunks, those before counted in."""
        plan, n_wanted = self._plan, int(np.ceil(share * len(which.chunks)))
        if which.rows is None:
            which.rows = self._pool.submit(plan.order.rows, which.block, int(which.first_rows[-1]))
        for chunk in which.chunks[len(which.loaded) : n_wanted]:
            which.loaded.append(self._pool.submit(plan.chunks, chunk, self._buffers))


def _gather(
    plan: Plan,
    loaded: list[Future[np.ndarray]],
    permutation: Future[np.ndarray],
    first_rows: np.ndarray,
    part: Part,
    outs: list[np.ndarray],
) -> None:
    """Fills the one of `outs`, which is taken out: a thread lets go of what it was given only some time after all is done, when
    the batch may be gone and the next but one wants its memory."""
    gather([each.result() for each in loaded], first_rows, permutation.result()[part.start : part.stop], plan.dtype, outs.pop())
