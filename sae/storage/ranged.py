"""Shards read where they lie in a bucket, by ranges of bytes: for stores that are larger than the disk.

A shard's index and each chunk is a request. Nothing is kept, so every byte comes over the network again in every epoch; what
`linked` does, a folder that fills, is the better way wherever there is room for it.
"""

import os
import shutil
import sys
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from sae.errors import StoreError
from sae.storage.bucket import Bucket
from sae.storage.linked import AGAIN, NO_CACHE, Linked

ROOM = 1.1
"""Free space that is wanted for what is missing in a folder, in times of it."""
ALIGNED = 4
"""Bytes; of every number that a store holds, and of where an uncompressed chunk begins in its file."""


class RangedFile(NamedTuple):
    """A shard in a bucket (`packed.ShardFile`)."""

    bucket: Bucket
    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.bucket}/{self.name}"

    @property
    def advice(self) -> str:
        return AGAIN

    def n_bytes(self) -> int:
        return self.size

    def part(self, start: int, size: int) -> np.ndarray:
        if start < 0 or start + size > self.size:
            raise ValueError("it is cut off")
        found = np.frombuffer(self.bucket.part(self.name, start, size), np.uint8)
        if len(found) != size:
            raise ValueError("it is cut off")
        # An answer that came in one piece lies where the network left it, beside its headers.
        return found if found.ctypes.data % ALIGNED == 0 else found.copy()


def ranged_files(linked: Linked, shards: Iterable[str], n_bytes: int, cache: bool | None) -> dict[str, RangedFile]:
    """Those of the files `shards` that are to be read by ranges: none with `cache`, without it all that are missing in the
    folder. Where it is None: without it if `SAE_CACHE` says so, or the folder's disk has no room for what is missing, which is
    told. `n_bytes` are those of all shards before compression.

    Raises `StoreError` where one that is to be read by ranges is missing in the bucket too."""
    if cache is None and os.environ.get("SAE_CACHE") == NO_CACHE:
        cache = False
    missing = [] if cache else [name for name in shards if not (linked.folder / name).is_file()]
    free = shutil.disk_usage(linked.folder).free
    if not missing or (cache is None and ROOM * n_bytes <= free):  # so nothing is asked where there is room enough
        return {}
    there = linked.bucket.files()
    for name in missing:
        if name not in there or there[name].size == 0:
            raise StoreError(f"{linked.url}/{name} is missing or empty; {AGAIN}")
    files = {name: RangedFile(linked.bucket, name, there[name].size) for name in missing}
    needed = sum(file.size for file in files.values())
    if cache is None and ROOM * needed <= free:
        return {}
    if cache is None:
        print(
            f"{linked.url} is read over the network, again in every epoch: {needed / 2**30:.2f} GiB of it are not here, "
            f"{free / 2**30:.2f} GiB are free on the disk of {linked.folder}; free some, or open the URL with another SAE_CACHE",
            file=sys.stderr,
            flush=True,
        )
    return files
