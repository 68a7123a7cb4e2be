"""Memory that is taken again. New memory comes from the system in pages that it has to clear: on a virtual machine 0.4 CPU
seconds a GiB, as much as all else that a batch takes."""

import weakref
from collections import deque
from typing import Any

import numpy as np


class Buffers:
    """Arrays of `n_bytes`, whose memory is used for the next one when neither they nor a view of them (a tensor too) are held any
    more. At most `most` lie idle. Several threads may take at once."""

    def __init__(self, n_bytes: int, *, most: int):
        self.n_bytes = n_bytes
        self._idle: deque[np.ndarray] = deque(maxlen=most)

    def take(self) -> np.ndarray:
        """uint8 [n_bytes], of any content."""
        try:
            memory = self._idle.pop()
        except IndexError:
            whole = np.empty(self.n_bytes + 64, np.uint8)
            memory = whole[-whole.ctypes.data % 64 :][: self.n_bytes]  # at a cache line's beginning
        lease = _Lease(memory)
        weakref.finalize(lease, self._idle.append, memory).atexit = False
        return np.asarray(lease)


class _Lease:
    """What views of a buffer end in: noting whose memory a view of a view is, numpy passes over arrays, but not over this."""

    def __init__(self, memory: np.ndarray):
        self.__array_interface__: dict[str, Any] = memory.__array_interface__
