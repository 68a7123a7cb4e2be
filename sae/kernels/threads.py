"""Compiled work on several threads: the same blocks whatever the number of threads, taken from a queue as threads get free."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="sae-step")


# A fork copies the pool but none of its threads: a child that gave it work would wait for ever.
os.register_at_fork(after_in_child=_pool.cache_clear)


def for_blocks(work: Callable[[int], T], n_blocks: int) -> list[T]:
    """`[work(0), ..., work(n_blocks - 1)]`, computed by as many threads as torch uses. `work` must release the interpreter's
    lock to gain anything, and blocks must not write to the same place. Where it fails, the error is raised when no thread is at
    work any more: what they write to belongs to the caller."""
    n_threads = min(torch.get_num_threads(), n_blocks)
    if n_threads <= 1:
        return [work(block) for block in range(n_blocks)]
    queue = iter(range(n_blocks))  # `next` on it holds the interpreter's lock: each block is taken once

    def take() -> list[tuple[int, T]]:
        return [(block, work(block)) for block in queue]

    pool = _pool(n_threads - 1)
    others = [pool.submit(take) for _ in range(n_threads - 1)]
    try:
        done = take()
    finally:
        wait(others)
    for other in others:
        done += other.result()
    return [result for _, result in sorted(done, key=lambda pair: pair[0])]


def for_slices(work: Callable[[int, int], None], n_rows: int, size: int = 162) -> None:
    """`work(first, n)` for slices of rows, on all threads. `size` is a multiple of `native_bytes.GROUP_ROWS`."""
    for_blocks(lambda block: work(block * size, min(size, n_rows - block * size)), -(-n_rows // size))
