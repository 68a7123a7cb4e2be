"""Shards' files of this machine, mapped: what lies in the page cache is used where it lies."""

import mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np


class MappedFile(NamedTuple):
    """A shard in a file (`packed.ShardFile`)."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def advice(self) -> str:
        return "see sae store verify and sae store repair, or harvest again"

    def n_bytes(self) -> int:
        return self.path.stat().st_size

    def part(self, start: int, size: int) -> np.ndarray:
        """It is unmapped when nobody holds the array any more."""
        with open(self.path, "rb") as opened:
            if start < 0 or start + size > opened.seek(0, 2):
                raise ValueError("it is cut off")
            before = start % mmap.ALLOCATIONGRANULARITY
            mapped = mmap.mmap(opened.fileno(), before + size, access=mmap.ACCESS_READ, offset=start - before)
        return np.frombuffer(mapped, np.uint8)[before:]
