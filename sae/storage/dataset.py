"""`RowsDataset`: a store's batches for torch's DataLoader, divided among its workers and the ranks of a distributed training."""

import os
from collections.abc import Iterator
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch.distributed
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sae.errors import ConfigError
from sae.shapes import Rows
from sae.storage import prefetch
from sae.storage.share import Share


class RowsDataset(IterableDataset[Rows]):
    """Made by `ActivationStore.dataset`; its `loader(num_workers)` is torch's `DataLoader(dataset, batch_size=None, ...)`.

    Batch k of the store goes to rank k mod n, so n ranks train in each step on n consecutive batches of the very order that one
    process would see, and of a rank's batches the loader's workers make one each in turn. So no row is repeated or lost in an
    epoch, and neither the number of workers nor that of ranks changes the order.

    Batches come as threads make them (one, in a worker, but where it reads ranges in a bucket), and each worker and rank reads
    all chunks that its batches have rows in: threads cost less than workers, and one worker is enough to keep the work out of
    the training process.

    seed      of the order
    start     batches that this rank has had already: where to go on
    epochs    after which it ends, the last batch being shorter, and some ranks having one more; None: never
    drop_last with `epochs`: leave out what does not give each rank another whole batch
    share     (rank, number of ranks); by default torch.distributed's where it is initialised, else of RANK and WORLD_SIZE,
              else (0, 1)
    threads   that read ahead, in each worker
    """

    def __init__(
        self,
        plan: prefetch.Plan,
        *,
        start: int = 0,
        epochs: int | None = None,
        drop_last: bool = False,
        share: tuple[int, int] | None = None,
    ):
        self.share = _share() if share is None else Share.parse(f"{share[0]}/{share[1]}")
        at_least(0, start=start)
        self.start, self.n_batches = start, None
        if epochs is not None:
            at_least(1, epochs=epochs)
            n_rows = epochs * plan.order.n_rows
            plan = replace(plan, end=n_rows)
            per_round = plan.n_rows * self.share.n
            self.n_batches = n_rows // per_round * self.share.n if drop_last else -(-n_rows // plan.n_rows)
        elif drop_last:
            raise ConfigError("'drop_last' without 'epochs': an endless dataset has no last batch; leave it out")
        self._plan = plan

    def loader(self, num_workers: int = 1, **options: Any) -> DataLoader[Rows]:
        """A DataLoader over it; `options` are torch's. Workers that have to ask a bucket are spawned, unless the option
        `multiprocessing_context` says otherwise: a forked one cannot ask. (A script that spawns needs its `if __name__ ==
        "__main__":`.)"""
        if num_workers and self._plan.chunks.to_be_fetched():
            options = {"multiprocessing_context": "spawn", **options}
        return DataLoader(self, batch_size=None, num_workers=num_workers, **options)

    def __iter__(self) -> Iterator[Rows]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        plan = self._plan
        if worker is not None:  # requests that wait for a network cost no core
            threads = max(1, plan.threads // step) if plan.chunks.over_network else 1
            plan = replace(plan, threads=threads, pin=False)
        return prefetch.batches(plan, self._wanted(self.start + first, step))

    def _wanted(self, first: int, step: int) -> Iterator[int]:
        """Numbers in the store's order of this rank's batches `first`, `first + step`, ..."""
        while True:
            batch = first * self.share.n + self.share.first
            if self.n_batches is not None and batch >= self.n_batches:
                return
            yield batch
            first += step

    def __len__(self) -> int:
        """Batches that this rank gets, from `start` on. Raises `TypeError` where there is no end."""
        if self.n_batches is None:
            raise TypeError("an endless dataset has no length; say how many 'epochs'")
        return max(0, -(-(self.n_batches - self.share.first) // self.share.n) - self.start)


def at_least(least: int, **named: object) -> None:
    """Raises `ConfigError`, with its name, for what is no whole number, or is below `least`."""
    for name, value in named.items():
        if not isinstance(value, Integral) or value < least:
            raise ConfigError(f"'{name}' = {value!r}: must be a whole number, at least {least}")


def _share() -> Share:
    """This process's rank."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Share(torch.distributed.get_rank(), torch.distributed.get_world_size())
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return Share.parse(f"{os.environ['RANK']}/{os.environ['WORLD_SIZE']}")
    return Share()
