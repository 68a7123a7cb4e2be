"""What a row costs from a store and from a live feed: CPU seconds a million rows, interleaved, medians of several rounds.

`python -m benchmarks.live --transformer data/A/transformer --tokens data/tokens`, after `dvc repro transformer`. Each round
harvests `--rows` rows into a store, reads them in batches of 8,192 for an epoch, twice, and makes them live, all on `--threads`
threads; CPU seconds are those of the whole process, threads of reading and of the forward pass included."""

import argparse
import shutil
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch

from sae.harvest import HarvestConfig, harvest
from sae.live.rows import BUFFER_ROWS, LiveRows
from sae.provenance import Run
from sae.source.transformer import load_source
from sae.storage.activations import ActivationStore
from sae.storage.tokens import TokenStore
from sae.training.data import RowSource

BATCH = 8192


def cpu(rows: RowSource, n_rows: int) -> float:
    """CPU seconds that an epoch of `n_rows` takes, the filling of the buffer included."""
    started = time.process_time()
    total = sum(float(batch[0, 0]) for batch in islice(rows.batches(BATCH), n_rows // BATCH))
    assert total == total, "rows are numbers"
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live", description=__doc__)
    parser.add_argument("--transformer", type=Path, default=Path("data/A/transformer"))
    parser.add_argument("--tokens", type=Path, default=Path("data/tokens"))
    parser.add_argument("--rows", type=int, default=2**18)
    parser.add_argument("--buffer", type=int, default=BUFFER_ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    source, tokens = load_source(given.transformer), TokenStore.open(given.tokens)
    config, split = HarvestConfig(n_rows=given.rows), tokens.split("train")
    live = LiveRows(source, split, tokens.bos, config, buffer_rows=given.buffer)
    found: dict[str, list[float]] = {"harvest": [], "first epoch of a store": [], "later epoch": [], "live": []}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "store"
        for _ in range(given.rounds):
            shutil.rmtree(path, ignore_errors=True)
            started = time.process_time()
            harvest(source, split, tokens.bos, config, path, Run(kind="activations", params=vars(config)))
            found["harvest"].append(time.process_time() - started)
            store = ActivationStore.open(path)
            found["first epoch of a store"].append(cpu(store, given.rows))
            found["later epoch"].append(cpu(store, given.rows))
            found["live"].append(cpu(live, given.rows))
        n_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    print(f"{given.rows:,} rows of {source.d_mlp}, {n_bytes / given.rows:.0f} bytes a row on disk; CPU seconds a million rows:")
    for name, seconds in found.items():
        per_million = sorted(value / given.rows * 1e6 for value in seconds)
        print(f"{name:24}{statistics.median(per_million):8.1f}  ({per_million[0]:.1f} to {per_million[-1]:.1f})")


if __name__ == "__main__":
    main()
