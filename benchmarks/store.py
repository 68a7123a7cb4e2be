"""Reading stored rows, and the codecs of a store.

    python -m benchmarks.store read                     # shuffled batches, beside np.memmap in order and SAELens' cache
    python -m benchmarks.store codecs --rows data/A/activations
    python -m benchmarks.store memory

How to read the tables: docs/benchmarks.md.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Repeat, Worker, interleave, provenance, summarise, table, timed, write_record
from benchmarks.peers import ROOT, child_environment, environment
from benchmarks.quiet import Limits
from sae.errors import UnavailableError
from sae.provenance import Run
from sae.storage import arrays
from sae.storage.activations import CHUNKS_MIXED, ActivationStore
from sae.storage.checked import CHECKSUMS, CheckedChunks, checksums
from sae.storage.layout import Layout, Stored, from_disk, to_disk
from sae.storage.pieces import Sums
from sae.storage.writer import StoreWriter

BATCH = 8192
BLOCK = 16_384
"""Rows that are made at once."""
THRESHOLD = 1.08
"""Of normal numbers 86 % lie below it: as many zeros as the default pipeline's rows have."""


def rows(n_rows: int, d_mlp: int) -> Iterator[np.ndarray]:
    """Blocks of float16, like a ReLU's."""
    rng = np.random.default_rng(0)
    for start in range(0, n_rows, BLOCK):
        size = min(BLOCK, n_rows - start)
        yield np.maximum(rng.standard_normal((size, d_mlp), dtype=np.float32) - THRESHOLD, 0).astype(np.float16)


def write_store(path: Path, n_rows: int, d_mlp: int, codec: arrays.Codec) -> None:
    layout, n_tasks = Layout(n_rows, d_mlp, codec=codec), -(-n_rows // BLOCK)
    with StoreWriter(path, Run(kind="activations", code="", versions={}), layout, n_tasks, seed=0) as writer:
        for task, values in enumerate(rows(n_rows, d_mlp)):
            index = task * BLOCK + np.arange(len(values))
            records = np.zeros(len(values), layout.record)
            records["place"], records["origin"][:, 0], records["values"] = writer.place(index), index, values
            records = records[np.argsort(records["place"])]
            writer.put(task, records, Sums(len(values), np.zeros(d_mlp), 0.0, 0.0))
        writer.join()
        writer.shuffle()
        writer.commit({})


def write_flat(path: Path, n_rows: int, d_mlp: int) -> None:
    with open(path, "wb") as file:
        for block in rows(n_rows, d_mlp):
            block.tofile(file)


def started(stack: ExitStack, python: str, reader: str, path: Path, d_mlp: int, threads: int) -> Worker:
    worker = Worker(f"{reader} {path.name}", [python, "-m", "benchmarks.readers"], threads=threads)
    stack.callback(worker.close)
    worker.ask({"do": "load", "reader": reader, "path": str(path), "n_rows": BATCH, "d_mlp": d_mlp})
    return worker


def contestants(stack: ExitStack, given: argparse.Namespace, d_mlp: int) -> dict[str, Worker]:
    """By name, the first the one that all are compared with."""
    n_rows, folder = given.megabytes * 2**20 // (2 * d_mlp) // BATCH * BATCH, given.folder
    write_flat(folder / "flat", n_rows, d_mlp)
    readers = {"np.memmap, in order": "memmap", "the same into one tensor": "memmap_one"}
    found = {
        name: started(stack, sys.executable, reader, folder / "flat", d_mlp, given.threads) for name, reader in readers.items()
    }
    for codec in arrays.CODECS:
        write_store(folder / codec, n_rows, d_mlp, codec)
        found[f"batches, {codec}"] = started(stack, sys.executable, "ours", folder / codec, d_mlp, given.threads)
    if not given.no_peer:
        try:
            python = str(environment())
        except UnavailableError as error:
            print(f"without SAELens: {error}", file=sys.stderr)
            return found
        command = [python, "-m", "benchmarks.readers", "write-saelens", str(folder / "flat"), str(folder / "saelens"), str(d_mlp)]
        subprocess.run(command, check=True, cwd=ROOT, env=child_environment(given.threads), stdout=sys.stderr)
        found["SAELens' cache"] = started(stack, python, "saelens", folder / "saelens", d_mlp, given.threads)
    return found


def read(given: argparse.Namespace) -> list[dict[str, Any]]:
    results = []
    for d_mlp in given.d_mlp:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, given.folder, ignore_errors=True)
            given.folder.mkdir(parents=True)
            found = repeats(contestants(stack, given, d_mlp), given.megabytes * 2**20 // (2 * d_mlp) // BATCH, given)
        print(f"\n## d_mlp {d_mlp}, batches of {BATCH}, {given.threads} threads\n\n{render(found, d_mlp, given)}", flush=True)
        results.append({"d_mlp": d_mlp, "contestants": {name: [asdict(one) for one in each] for name, each in found.items()}})
    return results


def repeats(workers: dict[str, Worker], steps: int, given: argparse.Namespace) -> dict[str, list[Repeat]]:
    """Each an epoch of `steps` batches."""
    limits = None if given.loud else Limits()
    for worker in workers.values():
        timed(worker, steps, None)  # files come into the page cache, kernels are compiled
    calls = {name: lambda worker=worker: timed(worker, steps, limits) for name, worker in workers.items()}
    return interleave(calls, rounds=given.rounds, attempts=given.attempts)


def render(found: dict[str, list[Repeat]], d_mlp: int, given: argparse.Namespace) -> str:
    wall = {name: summarise(each, lambda repeat: repeat.wall_s, given.rounds) for name, each in found.items()}
    cpu = {name: summarise(each, lambda repeat: repeat.cpu_s, given.rounds).median for name, each in found.items()}
    first, batch_gib = next(iter(found)), BATCH * d_mlp * 2 / 2**30
    lines = [
        [
            name,
            f"{wall[name].median:.1f}",
            f"{wall[name].low:.1f}-{wall[name].high:.1f}",
            f"{BATCH / wall[name].median / 1e3:.2f}M",
            f"{wall[first].median / wall[name].median:.2f}",
            f"{cpu[name] / 1e3 / batch_gib:.2f}",
            f"{cpu[first] / cpu[name]:.2f}",
            f"{wall[name].n_kept} of {wall[name].n_tried}" + ("" if wall[name].quiet and not given.loud else ", NOT QUIET"),
        ]
        for name in found
    ]
    header = ["", "ms a batch", "quartiles", "rows/s", "of memmap's rate", "CPU s a GiB", "of memmap's, by CPU", "repeats"]
    return table(header, lines)


def codecs(given: argparse.Namespace) -> list[dict[str, Any]]:
    """CPU seconds a GiB of rows before compression, by the store's own writing and reading; size after by size before."""
    store = ActivationStore.open(given.rows)
    values = from_disk(store[: given.megabytes * 2**20 // (2 * store.d_mlp)], store.dtype)
    print(f"\n## {len(values)} rows of {given.rows}, of {store.d_mlp} numbers, {float((values == 0).float().mean()):.0%} zeros\n")
    results: list[dict[str, Any]] = []
    types: tuple[Stored, ...] = ("float16", "bfloat16")
    for dtype in types:
        stored = to_disk(values, dtype)
        for codec in arrays.CODECS:
            results.append(
                {"dtype": dtype, "codec": codec, **cost(stored, Layout(len(values), store.d_mlp, dtype, codec=codec), given)}
            )
    lines = [
        [str(each["dtype"]), str(each["codec"]), *(f"{each[key]:.2f}" for key in ("write", "read", "size"))] for each in results
    ]
    print(table(["", "codec", "CPU s a GiB, write", "read", "size"], lines), flush=True)
    return results


def cost(values: np.ndarray, layout: Layout, given: argparse.Namespace) -> dict[str, float]:
    path = given.folder / "activations.zarr"
    spent: dict[str, list[float]] = {"write": [], "read": []}
    for _ in range(given.rounds):
        shutil.rmtree(given.folder, ignore_errors=True)
        group = arrays.create_group(path)
        array = arrays.create_array(
            group,
            "activations",
            values.shape,
            values.dtype,
            ("row", "d_mlp"),
            chunk_rows=layout.chunk_rows,
            shard_rows=layout.shard_rows,
            codec=layout.codec,
        )
        begin = time.process_time()
        for shard in range(layout.n_shards):
            array[layout.shard(shard)] = values[layout.shard(shard)]
        spent["write"].append(time.process_time() - begin)
        run = Run(kind="activations", facts={CHECKSUMS: {"activations": checksums(values, array.chunks[0])}})
        chunks = CheckedChunks(given.folder, run, "activations", layout, array)
        begin = time.process_time()
        for chunk in range(-(-len(values) // chunks.chunk_rows)):
            chunks(chunk)
        spent["read"].append(time.process_time() - begin)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / values.nbytes
    shutil.rmtree(given.folder)
    return {**{name: statistics.median(each) * 2**30 / values.nbytes for name, each in spent.items()}, "size": size}


def memory(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak above what is there before the first batch, beside the budget, for stores of two sizes."""
    results, d_mlp = [], given.d_mlp[0]
    for megabytes in (given.megabytes, 4 * given.megabytes):
        for codec in arrays.CODECS:
            with ExitStack() as stack:
                stack.callback(shutil.rmtree, given.folder, ignore_errors=True)
                given.folder.mkdir(parents=True)
                n_rows = megabytes * 2**20 // (2 * d_mlp)
                write_store(given.folder / codec, n_rows, d_mlp, codec)
                worker = started(stack, sys.executable, "ours", given.folder / codec, d_mlp, given.threads)
                worker.ask({"do": "run", "steps": 2 * n_rows // BATCH})
                peak = worker.ask({"do": "peak"})["peak_mb"]
            chunk = Layout(n_rows, d_mlp).chunk_rows * d_mlp * 2
            budget = (2 * CHUNKS_MIXED * chunk + (given.threads + 3) * BATCH * d_mlp * 4) / 2**20
            results.append({"megabytes": megabytes, "codec": codec, "peak_mb": peak, "budget_mb": budget})
    lines = [
        [f"{each['megabytes']} MiB, {each['codec']}", f"{each['peak_mb']:.0f}", f"{each['budget_mb']:.0f}"] for each in results
    ]
    print(table([f"d_mlp {d_mlp}", "peak, MiB", "budget"], lines), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["read", "codecs", "memory"])
    parser.add_argument("--d-mlp", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--megabytes", type=int, default=512, help="of rows in float16 (MiB)")
    parser.add_argument("--threads", type=int, default=2, help="of each reader")
    parser.add_argument("--rounds", type=int, default=5, help="quiet repeats wanted of each")
    parser.add_argument("--attempts", type=int, default=5, help="give up after this many times as many repeats")
    parser.add_argument("--loud", action="store_true", help="keep every repeat, however busy the machine; says so in the table")
    parser.add_argument("--no-peer", action="store_true", help="without SAELens")
    parser.add_argument("--rows", type=Path, default=ROOT / "data/A/activations", help="store whose rows the codecs are tried on")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/bench/store", help="for files; removed at the end")
    parser.add_argument("--json", type=Path, help="write all repeats and the machine here")
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    results = {"read": read, "codecs": codecs, "memory": memory}[given.what](given)
    if given.json is not None:
        write_record(given.json, {**provenance(), "what": given.what, "results": results})


if __name__ == "__main__":
    main()
