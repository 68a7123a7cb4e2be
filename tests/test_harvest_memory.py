"""The memory of a harvest is bounded by `Plan.memory_bytes`, whatever the size of the store."""

import json
import subprocess
import sys

import pytest

from tests.import_graph import ROOT

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from benchmarks.memory import forget_peak, status_kilobytes
from sae import harvest
from sae.storage import layout, writer
from tests.support.stores import make_tokens
from tests.support.toy_harvest import toy_config, toy_harvest
from tests.support.toy_source import ToySource

n_rows, task, shard, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
torch.set_num_threads(1)
harvest.TASK_BYTES, layout.CHUNK_BYTES, writer.SLICE_BYTES = task, shard // layout.CHUNKS_PER_SHARD, 2**18 // 16
source, tokens = ToySource(d_mlp=256), make_tokens(folder / "tokens", n_train=-(-n_rows // 15))
config = {"n_rows": n_rows, "positions_per_context": 15, "batch_contexts": 32}
toy_harvest(folder / "first", tokens, source, **{**config, "n_rows": 200})
before = forget_peak()
toy_harvest(folder / "store", tokens, source, **config)
plan = harvest.Plan(toy_config(**config), tokens.split("train"), tokens.bos, 256)
print(json.dumps([1024 * (status_kilobytes("VmHWM") - before), plan.memory_bytes, plan.layout.n_shards]))
"""


def measured(folder, n_rows: int, task: int, shard: int) -> tuple[int, int, int]:
    """Bytes that the harvest took at its most, bytes stated, shards."""
    folder.mkdir()
    given = [str(value) for value in (n_rows, task, shard, folder)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(f"\n{n_rows:,} rows, task {task >> 20} MiB, shard {shard >> 20} MiB: peak, stated, shards: {done.stdout.strip()}")
    return tuple(json.loads(done.stdout))


@pytest.mark.slow
def test_eight_times_the_store_takes_no_more_memory(tmp_path):
    (small, _, few), (large, stated, many) = (measured(tmp_path / str(n), n, 2**22, 2**23) for n in (62_500, 500_000))
    assert (few, many) == (4, 31)
    assert large < small + 5 * 2**21, "a shard and a bit: up to three are in memory, of four not always"
    assert large < stated


@pytest.mark.slow
@pytest.mark.parametrize(("task", "shard"), [(2**24, 2**23), (2**22, 2**24)])
def test_larger_tasks_and_shards_take_what_is_stated(tmp_path, task, shard):
    taken, stated, _ = measured(tmp_path / "one", 125_000, task, shard)
    assert taken < stated
