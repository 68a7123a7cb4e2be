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
from sae.storage.linked import Linked


def check_listed(path: str | Path, run: Run, layout: Layout) -> frozenset[str]:
    """The files of all shards. Raises `StoreError` where the record lacks the digest of a file that the store is to have."""
    shards = frozenset(file for shard in range(layout.n_shards) for file in shard_files(shard))
    described = {f"{ZARR}/{name}zarr.json" for name in ("", "mean/", *(f"{name}/" for name, _ in FIELDS))}
    missing = sorted((shards | described) - run.files.keys())
    if missing:
        raise StoreError(f"the record of {path} has no digest of {missing[0]} ({len(missing)} such files); harvest again")
    return shards


def check_small(path: Path, run: Run, layout: Layout) -> None:
    """Compare all files but the shards with their digests, fetched first where the store lies in a bucket."""
    small = sorted(run.files.keys() - check_listed(path, run, layout))
    linked = Linked.of(path, run)
    if linked:
        linked.have(small)
    else:
        artefact.verify(path, run, only=tuple(small))


def may_lack(path: Path, run: Run, layout: Layout) -> frozenset[str]:
    """Files that need not be there when a store is opened: the shards of one that lies in a bucket."""
    return check_listed(path, run, layout) if Linked.of(path, run) else frozenset()


class CheckedShards:
    """The shards of one array."""

    def __init__(self, path: Path, run: Run, name: str, layout: Layout):
        self._path, self._run, self._layout = path, run, layout
        self._which = [field for field, _ in FIELDS].index(name)
        self._whole: set[int] = set()
        self._linked = Linked.of(path, run)

    def check(self, *several: slice) -> None:
        """Compare the shards that hold these rows with their digests, unless that has been done; those of a store in a bucket are
        fetched first, side by side. Raises `StoreError`."""
        touched: set[int] = set()
        for rows in several:
            start, stop, _ = rows.indices(self._layout.n_rows)
            touched.update(range(start // self._layout.shard_rows, -(-stop // self._layout.shard_rows)))
        shards = sorted(touched - self._whole)
        if self._linked and shards:
            self._linked.have(self._file(shard) for shard in shards)
            self._whole.update(shards)
        for shard in shards:
            if shard not in self._whole:
                artefact.verify(self._path, self._run, only=(self._file(shard),))
                self._whole.add(shard)

    def _file(self, shard: int) -> str:
        return shard_files(shard)[self._which]
