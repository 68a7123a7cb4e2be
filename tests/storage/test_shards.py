"""Shards written past zarr, against those that zarr writes."""

import hashlib

import numpy as np
import pytest
from crc32c import crc32c

from sae.storage import arrays
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
