"""Rows held on one device until they are asked for, and a thread that makes the next block while this one is used."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor


class Ring:
    """`n_rows` places for rows of `d_mlp` numbers. A place is free, or held from `reserve` until `take`."""

    def __init__(self, n_rows: int, d_mlp: int, dtype: torch.dtype, device: str | torch.device):
        self._rows = torch.empty(n_rows, d_mlp, dtype=dtype, device=device)
        self._free, self._n_free = np.arange(n_rows), n_rows

    def reserve(self, n: int) -> np.ndarray:
        """`n` places, int64."""
        assert n <= self._n_free, f"{n} rows for {self._n_free} places"
        self._n_free -= n
        return self._free[self._n_free : self._n_free + n].copy()

    def put(self, places: np.ndarray, rows: Tensor) -> None:
        """Fill reserved places."""
        self._rows.index_copy_(0, self._to_device(places), rows)

    def take(self, places: np.ndarray) -> Tensor:
        """A copy of the rows in `places`, in that order; the places are free again."""
        rows = self._rows.index_select(0, self._to_device(places))
        self._free[self._n_free : self._n_free + len(places)] = places
        self._n_free += len(places)
        return rows

    def _to_device(self, places: np.ndarray) -> Tensor:
        index = torch.from_numpy(places)
        return index.pin_memory().to(self._rows.device, non_blocking=True) if self._rows.is_cuda else index


def ahead(blocks: Iterator[Tensor], device: str | torch.device) -> Iterator[Tensor]:
    """`blocks`, each made by a thread while the one before it is used; on a GPU on a stream of its own, which whoever uses the
    block waits for on the device (the host waits for neither).

    An error of `blocks` is raised where its block is asked for."""
    stream = torch.cuda.Stream(device) if torch.device(device).type == "cuda" else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(device))  # for the weights
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="live") as thread:
        coming = thread.submit(_made, blocks, stream)
        while True:
            block, wait = coming.result()
            coming = thread.submit(_made, blocks, stream)
            wait()
            yield block


def _made(blocks: Iterator[Tensor], stream: torch.cuda.Stream | None) -> tuple[Tensor, Callable[[], None]]:
    """The next block, and what its user has to call before."""
    if stream is None:
        return next(blocks), lambda: None
    with torch.cuda.stream(stream):
        block = next(blocks)
        done = stream.record_event()

    def wait() -> None:
        user = torch.cuda.current_stream(block.device)
        user.wait_event(done)
        block.record_stream(user)

    return block, wait
