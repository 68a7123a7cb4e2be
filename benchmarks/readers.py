"""One way to read stored rows in its own interpreter, commanded like `benchmarks.worker`: batches of float32 for training.

`memmap` goes through a flat file from beginning to end, each batch a new tensor; `memmap_one` writes all into one tensor;
`ours` goes through a store in shuffled batches, `saelens` through a cache of SAELens' by its ActivationsStore. The last needs
the peers' environment, `ours` the project's.
"""

import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.memory import forget_peak, status_kilobytes
from benchmarks.quiet import read_busy_seconds

CONTEXT = 128
"""Positions in a row of SAELens' cache."""
HOOK = "rows"


def memmap(path: str, n_rows: int, d_mlp: int) -> Iterator[Any]:
    warnings.simplefilter("ignore")  # that the map is not to be written to
    rows = np.memmap(path, np.float16, mode="r").reshape(-1, d_mlp)
    while True:
        for start in range(0, len(rows) - n_rows + 1, n_rows):
            yield torch.from_numpy(rows[start : start + n_rows]).float()


def memmap_one(path: str, n_rows: int, d_mlp: int) -> Iterator[Any]:
    warnings.simplefilter("ignore")
    rows, batch = np.memmap(path, np.float16, mode="r").reshape(-1, d_mlp), torch.empty(n_rows, d_mlp)
    while True:
        for start in range(0, len(rows) - n_rows + 1, n_rows):
            yield batch.copy_(torch.from_numpy(rows[start : start + n_rows]))


def ours(path: str, n_rows: int, d_mlp: int) -> Iterator[Any]:
    store = importlib.import_module("sae.storage.activations").ActivationStore.open(path)
    threads = torch.get_num_threads()
    found: Iterator[Any] = store.batches(n_rows, threads=threads)
    return found


def saelens(path: str, n_rows: int, d_mlp: int) -> Iterator[Any]:
    """Its buffer as small as its batch allows; the rest by its defaults (half of the buffer stays for mixing)."""
    warnings.simplefilter("ignore")  # it says so when it begins the cache anew
    store = importlib.import_module("sae_lens.training.activations_store").ActivationsStore
    return iter(
        store(
            model=None,
            dataset=None,
            streaming=False,
            hook_name=HOOK,
            hook_head_index=None,
            context_size=CONTEXT,
            d_in=d_mlp,
            n_batches_in_buffer=2 * n_rows // CONTEXT,
            total_training_tokens=10**9,
            store_batch_size_prompts=32,
            train_batch_size_tokens=n_rows,
            prepend_bos=False,
            normalize_activations="none",
            device=torch.device("cpu"),
            dtype="float32",
            cached_activations_path=path,
        )
    )


READERS = {"memmap": memmap, "memmap_one": memmap_one, "ours": ours, "saelens": saelens}


def write_saelens(flat: str, path: str, d_mlp: int) -> None:
    """The rows of a flat file as its cache runner writes them: a datasets folder of [context, d_mlp] in float32, its default."""
    datasets = importlib.import_module("datasets")
    rows = np.memmap(flat, np.float16, mode="r").reshape(-1, CONTEXT, d_mlp)
    features = datasets.Features(
        {
            HOOK: datasets.Array2D((CONTEXT, d_mlp), dtype="float32"),
            "token_ids": datasets.Sequence(datasets.Value("int32"), length=CONTEXT),
        }
    )
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256].astype(np.float32)
        made = {HOOK: part, "token_ids": np.zeros((len(part), CONTEXT), np.int32)}
        datasets.Dataset.from_dict(made, features=features).save_to_disk(f"{path}.parts/{start:08d}")
    parts = [datasets.load_from_disk(str(part)) for part in sorted(Path(f"{path}.parts").iterdir())]
    datasets.concatenate_datasets(parts).save_to_disk(path)


class Session:
    """A reader, and how long its batches take."""

    def __init__(self, reader: str, path: str, n_rows: int, d_mlp: int):
        self.batches = READERS[reader](path, n_rows, d_mlp)
        self.resident_kb = forget_peak()

    def run(self, steps: int) -> dict[str, float]:
        """Of `steps` batches, each let go before the next is asked for, as a step of training would."""
        busy, cpu, wall = read_busy_seconds(), time.process_time(), time.perf_counter()
        for _ in range(steps):
            next(self.batches)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {"steps": steps, "wall_s": wall, "cpu_s": cpu, "others_s": max(0.0, read_busy_seconds() - busy - cpu)}

    def peak(self) -> dict[str, float]:
        """Resident memory above that before the first batch, at its most, MB."""
        return {"peak_mb": (status_kilobytes("VmHWM") - self.resident_kb) / 1024}


def main() -> None:
    if sys.argv[1:2] == ["write-saelens"]:
        write_saelens(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    session: Session | None = None
    for line in sys.stdin:
        command = json.loads(line)
        verb = command.pop("do")
        if verb == "load":
            session = Session(**command)
            answer: dict[str, Any] = {"torch": torch.__version__}
        else:
            assert session is not None
            answer = session.run(**command) if verb == "run" else session.peak()
        print(json.dumps(answer), file=replies, flush=True)


if __name__ == "__main__":
    main()
