"""Chunks read past zarr, from wherever the shards' bytes lie, and used as they lie there where they are not compressed.

zarr's own way to an uncompressed chunk took 0.77 CPU seconds a GiB (copies into new memory), this one, mapped, with its checksum
0.07; to a chunk of zstd 2.3 against 1.6, of lz4 1.3 against 0.6. The format is that of the zarr 3 specification: a shard is its
chunks, then for each chunk where it begins and how many bytes it has (little-endian uint64), then the crc32c of that index.
"""

from typing import Protocol, runtime_checkable

import numpy as np
import zstandard
from crc32c import crc32c
from numcodecs import blosc

from sae.storage.buffers import Buffers


@runtime_checkable
class ShardFile(Protocol):
    """A shard's bytes: in a file of this machine (`mapped`), or in a bucket (`ranged`). Its text is where it lies."""

    @property
    def advice(self) -> str:
        """What to do where it is damaged."""
        ...

    def n_bytes(self) -> int: ...

    def part(self, start: int, size: int) -> np.ndarray:
        """uint8 [size], not to be written to. Raises `OSError` or `ValueError` where they cannot be had."""
        ...


class PackedChunks:
    """The chunks, `n_bytes` long and `per_shard` to a shard, of an array. Several threads may call at once."""

    def __init__(self, codec: str, n_bytes: int, per_shard: int):
        self._codec, self._n_bytes, self._per_shard = codec, n_bytes, per_shard
        self._index: dict[int, np.ndarray] = {}

    def __call__(self, file: ShardFile, shard: int, place: int, buffers: Buffers | None) -> np.ndarray:
        """The bytes, as they were before compression, of chunk `place` of a shard, which is `file`: uint8, not to be written to;
        decompressed into one of `buffers`, where there are such. Raises `OSError`, `ValueError` or `RuntimeError` for what is
        damaged."""
        start, size = self._places(file, shard)[place].tolist()
        if self._codec == "none" and size != self._n_bytes + 4:
            raise ValueError(f"{size} bytes, not {self._n_bytes + 4}")
        found = file.part(start, size)
        if self._codec == "none":
            return found[:-4]  # its crc32c is compared with the record's, for this and every other codec
        values = (buffers or Buffers(self._n_bytes, most=0)).take()
        (self._zstd if self._codec == "zstd" else self._lz4)(found, values)
        return values

    def _places(self, file: ShardFile, shard: int) -> np.ndarray:
        """Where each chunk of a shard begins and how long it is, uint64 [chunk, 2]."""
        if shard not in self._index:
            size = 16 * self._per_shard + 4
            end = file.part(file.n_bytes() - size, size).tobytes()
            if crc32c(end[:-4]) != int.from_bytes(end[-4:], "little"):
                raise ValueError("the checksum of the shard's index differs")
            self._index[shard] = np.frombuffer(end[:-4], "<u8").reshape(-1, 2)
        return self._index[shard]

    def _zstd(self, found: np.ndarray, values: np.ndarray) -> None:
        try:
            with zstandard.ZstdDecompressor().stream_reader(found.data) as reader:
                size = reader.readinto(values.data)
                longer = bool(reader.read(1))
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None
        if size != self._n_bytes or longer:
            raise ValueError(f"{size} bytes or more, not {self._n_bytes}")

    def _lz4(self, found: np.ndarray, values: np.ndarray) -> None:
        packed = found[:-4]
        if crc32c(packed.data) != int.from_bytes(found[-4:].tobytes(), "little"):
            raise ValueError("its checksum differs")  # blosc trusts what it is given
        blosc.decompress(packed.data, values)
