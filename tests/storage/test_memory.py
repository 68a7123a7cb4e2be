"""Memory of reading, by the kernel's own count, of stores of two sizes."""

import subprocess
import sys

import numpy as np
import pytest

from sae.storage.activations import CHUNKS_MIXED
from sae.storage.transfer import push
from tests.import_graph import ROOT
from tests.support.activations import write_store

D_MLP, CHUNK_ROWS, BATCH, THREADS = 512, 512, 1024, 2
BUDGET_KB = (2 * CHUNKS_MIXED * CHUNK_ROWS * D_MLP * 2 + (THREADS + 3) * BATCH * D_MLP * 4) // 1024
READS = """
import sys
from itertools import islice
from benchmarks.memory import forget_peak, status_kilobytes
from sae.storage.activations import ActivationStore

path, n_rows, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = ActivationStore.open(path, cache=False)  # of one in a bucket: by ranges
next(store.batches(64, threads=1))  # what is compiled is not counted
before = forget_peak()
for batch in islice(store.batches(n_rows, threads=threads), 2 * len(store) // n_rows):
    pass
print(status_kilobytes("VmHWM") - before)
"""


def write(path, n_rows, codec):
    values = np.random.default_rng(0).standard_normal((n_rows, D_MLP), dtype=np.float32).astype(np.float16)
    write_store(path, values, np.zeros((n_rows, 2), np.uint32), chunk_rows=CHUNK_ROWS, chunks_per_shard=16, codec=codec)


def peak(place):
    """Of reading two epochs, kB above what is there before."""
    command = [sys.executable, "-c", READS, str(place), str(BATCH), str(THREADS)]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_reading_takes_no_more_than_the_budget_whatever_the_size(tmp_path, codec):
    peaks = []
    for n_rows in (32_768, 131_072):
        write(tmp_path / str(n_rows), n_rows, codec)
        peaks.append(peak(tmp_path / str(n_rows)))
    print(f"\n{codec}: peaks {peaks} kB of {BUDGET_KB}")
    assert max(peaks) <= BUDGET_KB + 8192, "beside the budget: threads, decompressors, lists of rows"
    assert abs(peaks[1] - peaks[0]) <= 4096


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_reading_by_ranges_takes_no_more_either(door, tmp_path, codec):
    write(tmp_path / "store", 65_536, codec)
    push(tmp_path / "store", door.url)
    taken = peak(door.url)
    print(f"\n{codec}: peak {taken} kB of {BUDGET_KB}")
    assert taken <= BUDGET_KB + 8192 + THREADS * CHUNK_ROWS * D_MLP * 2 // 1024, "and a chunk as it lies there for each thread"
