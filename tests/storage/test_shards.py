"""Shards written past zarr, against those that zarr writes."""

import hashlib
import io
import time

import numpy as np
import pytest
from crc32c import crc32c

from sae.storage import arrays, shards
from sae.storage.layout import CHUNKS_PER_SHARD, FIELDS, Layout, create_arrays
from sae.storage.shards import write_shard


@pytest.mark.parametrize("codec", ["none", "zstd", "lz4"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "uint16", "uint32"])
@pytest.mark.parametrize("n_rows", [64, 61, 17, 16, 5])
def test_the_bytes_are_zarrs(tmp_path, codec, dtype, n_rows):
    """Of a shard of 4 chunks that is full, or the array's last one; with the digest of the file, the checksums of the rows."""
    group = arrays.create_group(tmp_path / "zarr")
    rng = np.random.default_rng(0)
    values = np.maximum(rng.normal(size=(64 + n_rows, 24)) * 100, 0).astype(dtype)
    sizes = {"chunk_rows": 16, "shard_rows": 64, "codec": codec}
    array = arrays.create_array(group, "rows", values.shape, values.dtype, ("row", "d"), **sizes)
    array[:] = values
    for shard in range(2):
        rows = values[64 * shard : 64 * (shard + 1)]
        written = write_shard(tmp_path / "mine" / str(shard), rows, array, codec)
        found = (tmp_path / "mine" / str(shard)).read_bytes()
        assert found == (tmp_path / "zarr" / "rows" / "c" / str(shard) / "0").read_bytes()
        assert written.sha256 == hashlib.sha256(found).hexdigest()
        expected = [f"{crc32c(rows[at : at + 16].tobytes()):08x}" for at in range(0, len(rows), 16)]
        assert written.checksums == "".join(expected)


def test_an_array_of_less_than_a_chunk(tmp_path):
    group, values = arrays.create_group(tmp_path / "zarr"), np.arange(6, dtype=np.float32).reshape(3, 2)
    array = arrays.create_array(group, "rows", (3, 2), np.float32, ("row", "d"), chunk_rows=16, shard_rows=64, codec="none")
    write_shard(tmp_path / "zarr" / "rows" / "c" / "0" / "0", values, array, "none")
    np.testing.assert_array_equal(arrays.read_array(arrays.open_to_write(tmp_path / "zarr"), "rows"), values)


def test_a_small_store_has_no_large_index(tmp_path):
    """Ten rows, where a chunk would be of 262,144: one entry for each of the chunks that a shard has, not 419,431."""
    create_arrays(tmp_path / "zarr", Layout(10, 16))
    for name, _ in FIELDS:
        array = arrays.get_array(arrays.open_to_write(tmp_path / "zarr"), name)
        assert array.chunks[0] == 10
        assert array.shards[0] == 10 * CHUNKS_PER_SHARD


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_few_chunks_are_packed_before_their_time(tmp_path, codec, monkeypatch):
    """A disk that is slow does not have a shard's compressed chunks pile up in memory."""
    packed, written, ahead = [0], [0], []

    class Slow(io.FileIO):
        def write(self, content):
            time.sleep(0.01)
            ahead.append(packed[0] - written[0])
            written[0] += len(content) > 4
            return super().write(content)

    def counting(*given):
        pack = packer(*given)

        def counted(rows):
            packed[0] += 1
            return pack(rows)

        return counted

    packer = shards._packer
    monkeypatch.setattr(shards, "_packer", counting)
    monkeypatch.setattr(shards, "open", lambda file, mode: Slow(file, mode), raising=False)
    values = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
    array = arrays.create_array(
        arrays.create_group(tmp_path / "zarr"),
        "rows",
        values.shape,
        np.float32,
        ("row", "d"),
        chunk_rows=1,
        shard_rows=64,
        codec=codec,
    )
    write_shard(tmp_path / "shard", values, array, codec)
    assert written[0] == 65, "chunks and the index"
    assert max(ahead) <= shards.THREADS + 1


def test_an_error_of_the_digest_comes_out(tmp_path, monkeypatch):
    class Sha256:
        def update(self, content):
            raise MemoryError

    values = np.zeros((16, 2), np.float32)
    array = arrays.create_array(
        arrays.create_group(tmp_path), "rows", (16, 2), np.float32, ("row", "d"), chunk_rows=4, shard_rows=16, codec="none"
    )
    monkeypatch.setattr(shards.hashlib, "sha256", Sha256)
    with pytest.raises(MemoryError):
        write_shard(tmp_path / "shard", values, array, "none")
