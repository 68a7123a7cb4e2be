"""The one door to zarr: create and open groups of arrays, each chunk with a checksum, no chunk ever missing silently.

zarr reads a missing chunk as its fill value. Two things keep that from happening unseen: every array is written whole
(`write_empty_chunks`), and every file of an artefact is in its `run.json`, which `require_files` checks on opening.
"""

import atexit
import json
import math
from collections.abc import Set
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.core import sync

from sae.errors import StoreError, raise_if_of_disk
from sae.provenance import Run

zarr.config.set({"array.write_empty_chunks": True})
EXIT_SECONDS = 60.0
"""How long zarr's thread may take to end."""


def end_loop() -> None:
    """At exit, before zarr's own hook: that one gives its thread 0.2 s to stop, then closes the loop all the same, and on a
    starved machine "Cannot close a running event loop" stands after a right answer. A thread that does not end in a minute is
    left alone: the process ends anyway."""
    loop, thread = sync.loop[0], sync.iothread[0]
    if loop is None or thread is None:
        return
    loop.call_soon_threadsafe(loop.stop)
    thread.join(EXIT_SECONDS)
    if thread.is_alive():
        atexit.unregister(sync.cleanup_resources)
        return
    loop.close()
    sync.loop[0] = sync.iothread[0] = None  # nothing is left to do for zarr's hook but its pool of threads


atexit.register(end_loop)  # hooks run in the reverse order

Codec = Literal["none", "zstd", "lz4"]
ZSTD_LEVEL, LZ4_LEVEL = 1, 5
CODECS: dict[Codec, tuple[Any, ...]] = {
    "none": (Crc32cCodec(),),
    "zstd": (ZstdCodec(level=ZSTD_LEVEL, checksum=True),),
    "lz4": (BloscCodec(cname="lz4", clevel=LZ4_LEVEL, shuffle="noshuffle"), Crc32cCodec()),
}
"""What a chunk goes through, last a checksum. Costs and sizes: docs/store.md."""

MOST_PACKED = 2**17
"""Bytes of numbers to a byte on disk, at most. zstd makes 2^15 equal bytes into one at best, lz4 255."""

Array = zarr.Array
"""For signatures of the files that may not import zarr."""
Group = zarr.Group


def create_group(path: str | Path, attributes: dict[str, Any] | None = None) -> zarr.Group:
    """A new zarr 3 group at `path`."""
    return zarr.open_group(path, mode="w", zarr_format=3, attributes=attributes)


def create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: Any,
    axes: tuple[str, ...],
    *,
    chunk_rows: int,
    shard_rows: int | None = None,
    codec: Codec = "zstd",
    attributes: dict[str, Any] | None = None,
) -> zarr.Array:
    """A new array, chunked (and sharded) along its first axis only, a checksum in every chunk.

    What is missing reads as NaN, in whole numbers as the greatest one: not as zeros, to any reader that does not look for it."""
    rest = shape[1:]
    # As many chunks to a shard where they are small: its index has an entry for each.
    per_shard = None if shard_rows is None else -(-shard_rows // chunk_rows)
    chunk_rows = max(1, min(chunk_rows, shape[0]))
    return group.create_array(
        name,
        shape=shape,
        chunks=(chunk_rows, *rest),
        shards=None if per_shard is None else (per_shard * chunk_rows, *rest),
        dtype=np.dtype(dtype),
        compressors=CODECS[codec],
        dimension_names=axes,
        fill_value=np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max,
        attributes=attributes or {},
    )


def write_array(
    group: zarr.Group, name: str, values: np.ndarray, axes: tuple[str, ...], *, chunk_rows: int = 65536
) -> zarr.Array:
    """A new array holding `values`."""
    array = create_array(group, name, values.shape, values.dtype, axes, chunk_rows=chunk_rows)
    if values.size:
        array[...] = values
    return array


def open_to_write(path: str | Path) -> zarr.Group:
    """A group that is there, for writing whole shards into its arrays."""
    return zarr.open_group(path, mode="r+", zarr_format=3)


def open_group(path: str | Path, run: Run, *, may_lack: Set[str] = frozenset()) -> zarr.Group:
    """The group at `path`, read-only. Every file that its artefact's `run` lists below it must be there, with bytes in it, but
    those that it `may_lack` as they come before they are read."""
    path = Path(path)
    for name in run.files.keys() - may_lack:
        file = path.parent / name
        if name.startswith(path.name + "/") and not (file.is_file() and file.stat().st_size > 0):
            raise StoreError(f"{file} is missing or empty; make the {run.kind} again")
    _check_claims(path, run, may_lack)
    try:
        return zarr.open_group(path, mode="r")
    except (ValueError, TypeError, KeyError, AssertionError, OSError) as error:
        raise_if_of_disk(error, f"reading {path}")
        raise StoreError(f"{path} is damaged or missing ({error}); make the {run.kind} again") from None


def _check_claims(path: Path, run: Run, may_lack: Set[str]) -> None:
    """Compare the size that each array claims with its files, before anything of that size is made: a description may say
    1e15 rows. Raises `StoreError` where they disagree."""
    inside = [name for name in run.files if name.startswith(path.name + "/")]
    for description in inside:
        folder, _, name = description.rpartition("/")
        if name != "zarr.json":
            continue
        try:
            stated = json.loads((path.parent / description).read_text(encoding="utf-8"))
            if stated["node_type"] != "array":
                continue
            shape, chunks = stated["shape"], stated["chunk_grid"]["configuration"]["chunk_shape"]
            n_files = math.prod(-(-int(size) // int(chunk)) for size, chunk in zip(shape, chunks, strict=True))
            n_bytes = math.prod(map(int, shape)) * np.dtype(stated["data_type"]).itemsize
        except (ValueError, TypeError, KeyError, OSError, ArithmeticError, RecursionError) as error:
            raise_if_of_disk(error, f"reading {path.parent / description}")
            raise StoreError(f"{path.parent / description} is damaged ({error!r}); make the {run.kind} again") from None
        files = [file for file in inside if file.startswith(f"{folder}/c/")]
        if len(files) != n_files:
            raise StoreError(
                f"{path.parent / folder} claims the shape {shape}, which is {n_files:,} files of {chunks}, but has "
                f"{len(files):,}; make the {run.kind} again"
            )
        if may_lack.isdisjoint(files):
            check_bytes(path.parent / folder, n_bytes, sum((path.parent / file).stat().st_size for file in files), run.kind)


def check_bytes(path: Path, claimed: int, on_disk: int, kind: str) -> None:
    """Raises `StoreError` where the array at `path` claims more bytes than its files can hold, however well they are packed."""
    if claimed > on_disk * MOST_PACKED:
        raise StoreError(
            f"{path} claims {claimed:,} bytes of numbers, its files have {on_disk:,} and can hold {MOST_PACKED:,} times that "
            f"at most; make the {kind} again"
        )


def get_array(group: zarr.Group, name: str) -> zarr.Array:
    """An array of a group by name (zarr types this as array-or-group). Raises `StoreError` where it is not there."""
    try:
        found = group.get(name)
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        raise StoreError(f"array '{name}' of {group.store_path} is damaged ({error}); make it again") from None
    if not isinstance(found, zarr.Array):
        raise StoreError(f"array '{name}' is missing from {group.store_path}")
    return found


def read(array: Array, rows: slice) -> np.ndarray:
    """Rows of an array. Raises `StoreError` where a chunk's checksum or its compression says that it is damaged."""
    try:
        return np.asarray(array[rows])
    except (ValueError, RuntimeError, OSError) as error:
        raise_if_of_disk(error, f"reading {array.store_path}")
        raise StoreError(f"{array.store_path} is damaged ({error}); make it again: dvc repro -f -s <stage>") from None


def read_array(group: zarr.Group, name: str) -> np.ndarray:
    """All of an array, in memory."""
    return read(get_array(group, name), slice(None))
