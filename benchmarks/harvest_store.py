"""How fast text becomes rows in a store: this project's harvest, the forward pass that it cannot do without, SAELens' store.

    python -m benchmarks.harvest_store                          # the default pipeline's transformer, and gelu-1l's shape
    python -m benchmarks.harvest_store --shapes default --rounds 7

In turn, over random tokens and weights of the same shape. A repeat of the harvest makes a whole store: pieces, shuffle, shards,
checksums, digests, commit; its bytes reach the disk. SAELens' `next()` gives rows in memory, mixed in a buffer. How to read the
table: docs/benchmarks.md.
"""

import argparse
import math
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.harness import Repeat, Summary, Worker, interleave, provenance, summarise, table, write_record
from benchmarks.harvest_forward import SITE, Mode, Shape, build, by_hand, modes, shapes
from benchmarks.peers import environment
from benchmarks.quiet import wait_until_quiet
from benchmarks.worker import clocked
from sae import artefact
from sae.harvest import HarvestConfig, harvest
from sae.provenance import Run
from sae.source.transformer import TransformerSource
from sae.storage.layout import Layout
from sae.storage.tokens import TokenStore, write_tokens

TAKEN = 32
"""Of a context's 128 positions, as in the default pipeline; all but the first is the other measurement."""
BATCH = 4096
"""Rows that SAELens' `next()` gives, its default."""
SHAPES = ("default", "gelu-1l")


class Contestant(NamedTuple):
    """One that is timed."""

    name: str
    run: Callable[[int], dict[str, Any]]
    """Does so many steps, and says how long they took (`worker.clocked`)."""
    tokens: float
    """That a step takes."""
    rows: float
    """That a step gives; 0 where they stay where the transformer leaves them."""


def write_random_tokens(path: Path, n_contexts: int, length: int, n_vocab: int) -> TokenStore:
    tokens = np.random.default_rng(0).integers(1, n_vocab, (n_contexts, length)).astype(np.uint32)
    tokens[:, 0] = 0
    split = tokens, np.zeros(tokens.shape, np.int32)
    with artefact.writing(path, Run(kind="tokens")) as draft:
        write_tokens(draft.path, dict.fromkeys(("train", "heldout"), split), np.zeros(1), ["random"], [b""] * n_vocab, 0)
    return TokenStore.open(path)


def to_store(source: TransformerSource, shape: Shape, taken: int, folder: Path, n_rows: int) -> Contestant:
    """A store of four shards, made anew in each step."""
    n_rows = n_rows or 4 * Layout(1, source.d_mlp).shard_rows
    config = HarvestConfig(n_rows=n_rows, positions_per_context=taken, batch_contexts=shape.n_contexts)
    n_contexts = -(-n_rows // taken)
    tokens = write_random_tokens(folder / f"tokens-{taken}", n_contexts, shape.length, shape.fields["d_vocab"])
    run = Run(kind="activations", params=vars(config), seed=0, code="", versions={})

    def step() -> None:
        harvest(source, tokens.split("train"), tokens.bos, config, folder / "store", run)
        shutil.rmtree(folder / "store")

    return Contestant(
        name_of("harvest to the store", taken, shape), lambda n: clocked(step, n), n_contexts * shape.length, n_rows
    )


def saelens(shape: Shape, taken: int, mode: Mode, held: ExitStack) -> Contestant:
    """The same number of positions of each context, evenly spaced, as it cannot take random ones."""
    worker = Worker(
        "saelens", [str(environment()), "-m", "benchmarks.steppers.saelens_store"], threads=mode.threads, cpu=mode.cpu
    )
    held.callback(worker.close)
    given = {"fields": shape.fields, "hook": SITE.hook, "n_contexts": shape.n_contexts, "length": shape.length}
    worker.ask({"do": "load", **given, "batch": BATCH, "positions": [1, None, -(-(shape.length - 1) // taken)]})
    assert worker.ask({"do": "check"})["shape"] == [BATCH, shape.fields["d_mlp"]]
    name = name_of("SAELens, next()", taken, shape)
    return Contestant(name, lambda n: worker.ask({"do": "run", "steps": n}), BATCH * shape.length / taken, BATCH)


def name_of(what: str, taken: int, shape: Shape) -> str:
    return f"{what}, {taken} of {shape.length}"


def contestants(shape: Shape, mode: Mode, folder: Path, n_rows: int, held: ExitStack) -> list[Contestant]:
    source, tokens = build(shape)
    hand, frozen = by_hand(source), source.frozen()
    positions = torch.rand(tokens.shape).argsort(1)[:, :TAKEN].sort(1).values
    found = [
        Contestant("written by hand, all positions", lambda n: clocked(lambda: hand(tokens), n), shape.n_tokens, 0),
        Contestant(
            name_of("activations_at", TAKEN, shape),
            lambda n: clocked(lambda: frozen.activations_at(tokens, positions), n),
            shape.n_tokens,
            0,
        ),
    ]
    for taken in (TAKEN, shape.length - 1):
        found += [to_store(source, shape, taken, folder, n_rows), saelens(shape, taken, mode, held)]
    return found


def timed(contestant: Contestant, steps: int, mode: Mode) -> Repeat:
    before = mode.limits is None or wait_until_quiet(mode.limits)
    answer = contestant.run(steps)
    quiet = mode.limits is None or (before and mode.limits.quiet_during(answer["others_s"], answer["wall_s"]))
    return Repeat(**answer, quiet=quiet)


def measure(mode: Mode, found: list[Contestant], given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Repeats, summary and rates of each."""
    calls = {}
    for each in found:
        first = each.run(1)  # allocates, fills buffers, faults pages in
        steps = max(1, math.ceil(given.seconds / max(first["cpu_s"], 1e-3)))
        calls[each.name] = lambda each=each, steps=steps: timed(each, steps, mode)
    taken = interleave(calls, rounds=given.rounds, attempts=given.attempts)
    record = {}
    for each in found:
        repeats = taken[each.name]
        summary = summarise(repeats, lambda repeat: repeat.wall_s if mode.limits else repeat.cpu_s, given.rounds)
        rates = {what: 1e3 * getattr(each, what) / summary.median for what in ("tokens", "rows")}
        record[each.name] = {"repeats": [asdict(one) for one in repeats], "summary": summary._asdict(), "rates": rates}
    return record


def render(mode: Mode, record: dict[str, dict[str, Any]]) -> str:
    hand = next(iter(record.values()))["rates"]["tokens"]
    lines, ours = [], 0.0
    for name, each in record.items():
        summary, rates = Summary(**each["summary"]), each["rates"]
        ours, times = (rates["rows"], "") if name.startswith("harvest") else (ours, f"{ours / (rates['rows'] or math.inf):.2f}")
        lines.append(
            [
                name,
                f"{rates['tokens'] / 1e3:.1f}k",
                f"{100 * (summary.high - summary.low) / summary.median:.0f} %",
                f"{rates['rows'] / 1e3:.1f}k" if rates["rows"] else "",
                f"{rates['tokens'] / hand:.2f}",
                times if rates["rows"] else "",
                f"{summary.n_kept} of {summary.n_tried}" + ("" if summary.quiet else ", NOT QUIET"),
            ]
        )
    header = ["", "tokens/s", "quartiles apart", "rows/s", "of by hand", "ours faster by", "repeats kept"]
    return f"**{mode.name}**\n\n{table(header, lines)}"


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Print the tables as they come; the record of all of it."""
    record: dict[str, Any] = {"torch": torch.__version__, **provenance(), "results": []}
    for name in given.shapes:
        shape = shapes()[name]
        print(f"\n## {name}: {shape.fields}, {shape.n_contexts} contexts of {shape.length} a batch\n")
        for mode in modes(given.modes):
            mode.apply()
            with tempfile.TemporaryDirectory(dir=given.folder) as folder, ExitStack() as held:
                found = measure(mode, contestants(shape, mode, Path(folder), given.rows, held), given)
            record["results"].append({"shape": name, "mode": mode.name, "contestants": found})
            print(render(mode, found), flush=True)
            print()
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--modes", nargs="+", default=["wall", "cpu"], choices=["wall", "cpu"])
    parser.add_argument("--rounds", type=int, default=5, help="quiet repeats wanted of each")
    parser.add_argument("--attempts", type=int, default=3, help="give up after this many times as many repeats")
    parser.add_argument("--seconds", type=float, default=1.0, help="of CPU in one repeat, at least one step")
    parser.add_argument("--rows", type=int, default=0, help="of the store; 0: four shards, 512 MiB")
    parser.add_argument("--folder", type=Path, help="the disk that is written to; by default that of temporary files")
    parser.add_argument("--json", type=Path, help="write all repeats, versions and the machine here")
    given = parser.parse_args()
    record = run(given)
    if given.json is not None:
        write_record(given.json, record)


if __name__ == "__main__":
    main()
