"""The shards of a store that is being written, each with a record of what was written.

A shard's file is written past zarr: the bytes that zarr would write, for less. zarr joins a shard's chunks in memory, copies
that, and says nothing of what it wrote, so that the file had to be read again for its digest. The format is that of the zarr 3
specification, as in `packed`.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from crc32c import crc32c
from numcodecs.blosc import NOSHUFFLE, Blosc
from numcodecs.zstd import Zstd

from sae import artefact
from sae.provenance import sha256_file
from sae.storage.arrays import LZ4_LEVEL, ZSTD_LEVEL, Array, Codec, Group, get_array
from sae.storage.layout import FIELDS, Layout, shard_files

ABSENT = np.iinfo(np.uint64).max
"""In a shard's index, for a chunk beyond the array's end."""
THREADS = 4
"""That compress."""
Packed = tuple[int, list[memoryview | bytes]]
"""A chunk's checksum and, end to end, what lies in the file for it."""


class Written(NamedTuple):
    """What became of a shard."""

    sha256: str
    """Of its file."""
    checksums: str
    """crc32c of its chunks before compression, eight hexadecimal digits each."""


class Shards:
    """Records lie in `folder`, the shards' files below `store`; `plan` is the digest of what they belong to."""

    def __init__(self, folder: Path, store: Path, layout: Layout, plan: str):
        self._folder, self._store, self._layout, self._plan = folder, store, layout, plan

    def write(self, shard: int, fields: dict[str, np.ndarray], group: Group) -> None:
        """The files of a shard, synced, then its record. `fields` are its rows by `FIELDS`, `group` has the arrays."""
        digests, chunks = {}, {}
        for (name, field), file in zip(FIELDS, shard_files(shard), strict=True):
            digests[file], chunks[name] = write_shard(
                self._store / file, fields[field], get_array(group, name), self._layout.codec
            )
            artefact.sync(self._store / file)
        artefact.write_text(self._record(shard), self._text_of(digests, chunks))

    def is_written(self, shard: int) -> bool:
        """Whether a shard is there, with the digests that it was written with; a record that is wrong is removed."""
        record = self._record(shard)
        try:
            text = record.read_text(encoding="utf-8")
            digests = {name: sha256_file(self._store / name) for name in shard_files(shard)}
            whole = text == self._text_of(digests, json.loads(text)["chunks"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            record.unlink(missing_ok=True)
        return whole

    def n_unwritten(self) -> int:
        """Shards that have no record."""
        return sum(not self._record(shard).is_file() for shard in range(self._layout.n_shards))

    def files(self) -> dict[str, str]:
        """Digests of the files of all shards."""
        return {name: digest for stated in self._stated() for name, digest in stated["files"].items()}

    def checksums(self) -> dict[str, str]:
        """Of the chunks of all shards, by array."""
        stated = self._stated()
        return {name: "".join(shard["chunks"][name] for shard in stated) for name, _ in FIELDS}

    def _stated(self) -> list[dict[str, Any]]:
        return [json.loads(self._record(shard).read_text(encoding="utf-8")) for shard in range(self._layout.n_shards)]

    def _text_of(self, digests: dict[str, str], chunks: dict[str, str]) -> str:
        """The text of a shard's record, with a digest of itself."""
        stated = {"plan": self._plan, "files": digests, "chunks": chunks}
        return json.dumps({**stated, "sha256": hashlib.sha256(json.dumps(stated).encode()).hexdigest()}, indent=1)

    def _record(self, shard: int) -> Path:
        return self._folder / f"{shard:05d}.json"


def write_shard(file: Path, values: np.ndarray, array: Array, codec: Codec) -> Written:
    """Write `values`, all rows of a shard of `array`, to its `file`, which is not synced."""
    chunk_rows, shards = array.chunks[0], array.shards
    assert shards is not None, "not sharded"
    assert len(values) <= shards[0], "more than one"
    file.parent.mkdir(parents=True, exist_ok=True)
    places, sums, at, sha256 = np.full((shards[0] // chunk_rows, 2), ABSENT, "<u8"), "", 0, hashlib.sha256()
    chunks = (np.ascontiguousarray(values[start : start + chunk_rows]) for start in range(0, len(values), chunk_rows))
    with open(file, "wb") as opened, ThreadPoolExecutor(THREADS) as pool, ThreadPoolExecutor(1) as beside:
        digested: Future[None] | None = None
        for i, (crc, parts) in enumerate(_ahead(pool, _packer(array, codec), chunks)):
            sums += f"{crc:08x}"
            places[i] = at, sum(map(len, parts))
            at += int(places[i, 1])
            if digested is not None:
                digested.result()
            digested = beside.submit(_digest, sha256, parts)
            for part in parts:
                opened.write(part)
        if digested is not None:
            digested.result()
        index = places.tobytes()
        end = index + _little(crc32c(index))
        sha256.update(end)
        opened.write(end)
    return Written(sha256.hexdigest(), sums)


def _ahead(pool: Executor, pack: Callable[[np.ndarray], Packed], chunks: Iterable[np.ndarray]) -> Iterator[Packed]:
    """Each packed, in order; one for each thread is begun ahead. `pool.map` begins all, and lets up to a whole shard more lie in
    memory: two that were being written, of rows that do not shrink, took 600 MiB where 430 do."""
    coming: deque[Future[Packed]] = deque()
    for chunk in chunks:
        coming.append(pool.submit(pack, chunk))
        if len(coming) > THREADS:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()


def _digest(sha256: "hashlib._Hash", parts: list[memoryview | bytes]) -> None:
    for part in parts:
        sha256.update(part)


def _packer(array: Array, codec: Codec) -> Callable[[np.ndarray], Packed]:
    """What packs a chunk. Several threads may call it at once."""
    encoders: dict[Codec, Callable[[np.ndarray], memoryview | bytes]] = {
        "none": _bytes,
        "zstd": Zstd(level=ZSTD_LEVEL, checksum=True).encode,
        "lz4": Blosc(cname="lz4", clevel=LZ4_LEVEL, shuffle=NOSHUFFLE, typesize=array.dtype.itemsize).encode,
    }

    def pack(rows: np.ndarray) -> Packed:
        crc = crc32c(_bytes(rows))
        whole = rows
        if len(rows) < array.chunks[0]:  # the last chunk lies there in full
            whole = np.full(array.chunks, array.fill_value, array.dtype)
            whole[: len(rows)] = rows
        packed = encoders[codec](whole)
        if codec == "zstd":
            return crc, [packed]  # with a checksum of its own
        return crc, [packed, _little(crc if codec == "none" and whole is rows else crc32c(packed))]

    return pack


def _bytes(rows: np.ndarray) -> memoryview:
    return rows.reshape(-1).view(np.uint8).data


def _little(checksum: int) -> bytes:
    return checksum.to_bytes(4, "little")
