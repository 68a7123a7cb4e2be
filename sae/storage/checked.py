"""What a committed store's files are compared with, and when: the small ones with their digests on opening, each chunk of rows
with its checksum in the record whenever it is read.

The checksums that lie within the chunks find a bit that turned, but two shards that changed places are both whole: only what the
record says of chunk i finds that. It says the crc32c of the chunk's rows before compression (0.06 CPU seconds a GiB; a shard's
sha256, which `sae store verify` compares, takes 0.7).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from crc32c import crc32c

from sae import artefact
from sae.errors import ConfigError, SaeError, StoreError, raise_if_of_disk
from sae.provenance import Run
from sae.storage import arrays
from sae.storage.buffers import Buffers
from sae.storage.layout import FIELDS, ZARR, Layout, shard_files
from sae.storage.linked import Linked
from sae.storage.mapped import MappedFile
from sae.storage.packed import PackedChunks, ShardFile
from sae.storage.ranged import RangedFile

CHECKSUMS = "chunk_crc32c"
"""Fact of the record: for each array with shards, the checksums of its chunks, eight hexadecimal digits each."""


def check_listed(path: str | Path, run: Run, layout: Layout) -> frozenset[str]:
    """The files of all shards. Raises `StoreError` where the record lacks the digest of a file that the store is to have."""
    if len(FIELDS) * layout.n_shards > len(run.files):  # before a set is made, of a number that may be 1e15
        raise StoreError(
            f"{path} claims {layout.n_rows:,} rows in {layout.n_shards:,} shards, but its record has the digests of "
            f"{len(run.files):,} files only; harvest again"
        )
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


def checksums(values: np.ndarray, chunk_rows: int) -> str:
    """Of the chunks of some rows, as the record states them."""
    chunks = (np.ascontiguousarray(values[start : start + chunk_rows]) for start in range(0, len(values), chunk_rows))
    return "".join(f"{crc32c(chunk.reshape(-1).view(np.uint8).data):08x}" for chunk in chunks)


class CheckedChunks:
    """The chunks of one array of the store at `path`, each compared with its checksum. Several threads may read at once.

    Shards among the files `ranged` are read where they lie in a bucket; others that are missing are fetched first, once."""

    def __init__(
        self, path: Path, run: Run, name: str, layout: Layout, array: arrays.Array, ranged: Mapping[str, RangedFile] | None = None
    ):
        self._path, self._dtype, self._shape, self.chunk_rows = path, array.dtype, array.shape, array.chunks[0]
        self.n_rows, self.n_bytes = array.shape[0], array.dtype.itemsize * int(np.prod(array.chunks))
        self._per_shard = (array.shards or array.chunks)[0] // self.chunk_rows
        stated = str(run.facts.get(CHECKSUMS, {}).get(name, ""))
        self._checksums = [stated[at : at + 8] for at in range(0, len(stated), 8)]
        if len(self._checksums) != -(-self.n_rows // self.chunk_rows):
            raise StoreError(f"the record of {path} has not the checksum of every chunk of its {name}; harvest again")
        self._packed = PackedChunks(layout.codec, self.n_bytes, self._per_shard)
        self._linked, self._fetched = Linked.of(path, run), set[int]()
        self._ranged = ranged or {}
        which = [field for field, _ in FIELDS].index(name)
        self._names = [shard_files(shard)[which] for shard in range(layout.n_shards)]

    @property
    def over_network(self) -> bool:
        """Whether chunks come from a bucket each time that they are read."""
        return bool(self._ranged)

    def to_be_fetched(self) -> bool:
        """Whether a bucket will be asked for some of them."""
        if self._linked is None or self._ranged:
            return bool(self._ranged)
        return not all((self._path / name).is_file() for name in self._names)

    def __call__(self, chunk: int, buffers: Buffers | None = None) -> np.ndarray:
        """The rows of a chunk, contiguous, not to be written to. Raises `StoreError` where they are not what was committed.

        What has to be decompressed may take memory from `buffers`, of `n_bytes`."""
        shard, place = divmod(chunk, self._per_shard)
        file, n_rows = self._file(shard), min(self.chunk_rows, self.n_rows - chunk * self.chunk_rows)
        try:
            packed = self._packed(file, shard, place, buffers)
            values = packed.view(self._dtype).reshape(self.chunk_rows, *self._shape[1:])[:n_rows]
            if not self._is_whole(chunk, values):
                raise ValueError("its checksum is not the one committed")
        except SaeError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise_if_of_disk(error, f"reading {file}")
            raise StoreError(f"{file} is damaged (chunk {place}: {error}); {file.advice}") from None
        return values

    def _is_whole(self, chunk: int, values: np.ndarray) -> bool:
        return checksums(values, self.chunk_rows) == self._checksums[chunk]

    def _file(self, shard: int) -> ShardFile:
        name = self._names[shard]
        if name in self._ranged:
            return self._ranged[name]
        if self._linked and shard not in self._fetched:
            self._linked.have([name])
            self._fetched.add(shard)
        return MappedFile(self._path / name)

    def read(self, rows: slice) -> np.ndarray:
        """Rows from anywhere; whole chunks are read for them. Raises `ConfigError` for what is no slice."""
        if not isinstance(rows, slice):
            raise ConfigError(f"rows {rows!r}: give a slice, such as [0:100]; one row is [i : i + 1]")
        wanted = range(self.n_rows)[rows]
        start, stop = (min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1]) + 1) if wanted else (0, 0)
        out = np.empty((stop - start, *self._shape[1:]), self._dtype)
        for chunk in range(start // self.chunk_rows, -(-stop // self.chunk_rows)):
            first = chunk * self.chunk_rows
            low, high = max(start, first), min(stop, first + self.chunk_rows)
            out[low - start : high - start] = self(chunk)[low - first : high - first]
        return out if wanted.step == 1 else np.ascontiguousarray(out[wanted[0] - start :: wanted.step] if wanted else out)
