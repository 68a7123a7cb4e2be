"""What a committed store's files are compared with their digests by, and when: the small ones on opening, a shard before it is
first read.

The checksums within zarr's chunks find a bit that turned, but two shards that changed places are both whole: only a digest by
name finds that. It costs one pass of sha256 (1 to 2 GB/s on a core) over what is read, once for each process.
"""

from pathlib import Path

from sae import artefact
from sae.errors import StoreError
from sae.provenance import Run
from sae.storage.layout import FIELDS, ZARR, Layout, shard_files


def check_listed(path: Path, run: Run, layout: Layout) -> frozenset[str]:
    """The files of all shards. Raises `StoreError` where the record lacks the digest of a file that the store is to have."""
    shards = frozenset(file for shard in range(layout.n_shards) for file in shard_files(shard))
    described = {f"{ZARR}/{name}zarr.json" for name in ("", "mean/", *(f"{name}/" for name, _ in FIELDS))}
    missing = sorted((shards | described) - run.files.keys())
    if missing:
        raise StoreError(f"the record of {path} has no digest of {missing[0]} ({len(missing)} such files); harvest again")
    return shards


def check_small(path: Path, run: Run, layout: Layout) -> None:
    """Compare all files but the shards with their digests."""
    small = run.files.keys() - check_listed(path, run, layout)
    artefact.verify(path, run, only=tuple(sorted(small)))


class CheckedShards:
    """The shards of one array."""

    def __init__(self, path: Path, run: Run, name: str, layout: Layout):
        self._path, self._run, self._layout = path, run, layout
        self._which = [field for field, _ in FIELDS].index(name)
        self._whole: set[int] = set()

    def check(self, rows: slice) -> None:
        """Compare the shards that hold `rows` with their digests, unless that has been done. Raises `StoreError`."""
        start, stop, _ = rows.indices(self._layout.n_rows)
        for shard in range(start // self._layout.shard_rows, -(-stop // self._layout.shard_rows)):
            if shard not in self._whole:
                artefact.verify(self._path, self._run, only=(shard_files(shard)[self._which],))
                self._whole.add(shard)
