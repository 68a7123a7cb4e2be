"""Which library's training makes the better L1 dictionary? Same rows, equal steps, batch, width and L0, several seeds.

    python -m benchmarks.quality synthetic
    python -m benchmarks.quality activations --data data

How it is made fair, and what the columns are: docs/benchmarks.md.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import equal_l0
from benchmarks.measures import COLUMNS, Quality, columns, table
from benchmarks.subjects import Activations, Subject, Synthetic
from benchmarks.trainings import CONTESTANTS, Contestant, Settings, Sizes
from sae.dictionary.base import Dictionary
from sae.errors import SaeError
from sae.toys.synthetic import SyntheticConfig


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What equal L0 means."""

    l0: float
    tolerance: float = 0.05
    """Relative, on `subjects.N_GLANCED` held-out rows with the first seed. The table's L0 is over all rows and seeds."""
    start: float = 3.0
    """λ of the first search's first training; later ones begin where the one before ended."""
    most: int = 6
    """Trainings of one search."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One contestant's result."""

    lr: float | None
    sparsity: float
    searched: list[dict[str, float | None]]
    """Every training of the search: lr, sparsity, l0, fvu."""
    qualities: list[Quality]
    """By seed."""
    seconds: float


class Made:
    """A dictionary and what a glance showed of it."""

    def __init__(self, dictionary: Dictionary, glance: Quality):
        self.dictionary, self.fvu = dictionary, glance.reconstruction.fvu


def compete(contestant: Contestant, subject: Subject, sizes: Sizes, aim: Aim, n_seeds: int) -> Entry:
    """Find the setting for each learning rate with seed 0, keep the learning rate of the lower FVU, train the other seeds so."""
    began, searches = time.monotonic(), {}
    start = aim.l0 if contestant.by_target else aim.start
    for lr in contestant.learning_rates:

        def attempt(sparsity: float, lr: float | None = lr) -> tuple[float, Made]:
            dictionary = contestant.train(subject.rows, sizes, Settings(sparsity=sparsity, lr=lr, seed=0))
            glance = subject.glance(dictionary)
            print(f"  lr {lr} setting {sparsity:.4g}: L0 {glance.reconstruction.l0:.2f}", file=sys.stderr, flush=True)
            return glance.reconstruction.l0, Made(dictionary, glance)

        searches[lr] = equal_l0.find(
            attempt,
            target=aim.l0,
            start=start,
            elasticity=1.0 if contestant.by_target else -1.0,
            tolerance=aim.tolerance,
            most=aim.most,
        )
    lr, tries = min(searches.items(), key=lambda item: item[1][-1].made.fvu)
    kept = tries[-1]
    others = (Settings(sparsity=kept.setting, lr=lr, seed=seed) for seed in range(1, n_seeds))
    dictionaries = [kept.made.dictionary, *(contestant.train(subject.rows, sizes, settings) for settings in others)]
    searched = [
        {"lr": rate, "sparsity": one.setting, "l0": one.l0, "fvu": one.made.fvu} for rate, all in searches.items() for one in all
    ]
    qualities = [subject.judge(dictionary) for dictionary in dictionaries]
    return Entry(lr=lr, sparsity=kept.setting, searched=searched, qualities=qualities, seconds=time.monotonic() - began)


def report(entries: Mapping[str, Entry], aim: Aim) -> str:
    """The table, with each contestant's learning rate and λ, and a line for each whose L0 is not within the tolerance."""
    names = {name: f"{name} ({_setting(name, entry)})" for name, entry in entries.items()}
    text = table({names[name]: entry.qualities for name, entry in entries.items()})
    for name, entry in entries.items():
        l0 = sum(quality.reconstruction.l0 for quality in entry.qualities) / len(entry.qualities)
        if abs(l0 / aim.l0 - 1) > aim.tolerance:
            text += f"\nNOT AT EQUAL L0: {name} has {l0:.2f}, wanted were {aim.l0:g} within {aim.tolerance:.0%}.\n"
    return text


def _setting(name: str, entry: Entry) -> str:
    rate = "its own lr" if entry.lr is None else f"lr {entry.lr:g}"
    return f"{rate}, {'target' if CONTESTANTS[name].by_target else 'λ'} {entry.sparsity:.3g}"


def record(entries: Mapping[str, Entry], conditions: Mapping[str, Any]) -> dict[str, Any]:
    """All single results, for --json."""

    def one(entry: Entry) -> dict[str, Any]:
        seeds = [dict(zip(COLUMNS, columns(quality), strict=True)) for quality in entry.qualities]
        return {**{name: value for name, value in vars(entry).items() if name != "qualities"}, "seeds": seeds}

    return {"conditions": dict(conditions), "results": {name: one(entry) for name, entry in entries.items()}}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=["synthetic", "activations"])
    parser.add_argument("--data", type=Path, default=Path("data"), help="activations: the data folder of a finished pipeline")
    parser.add_argument("--letter", default="A", help="activations: the transformer's name in it")
    parser.add_argument("--loss-tokens", type=int, default=32_768, help="activations: held-out tokens for loss recovered")
    parser.add_argument("--true-features", type=int, default=256, help="synthetic: features that the rows are made of")
    parser.add_argument("--true-l0", type=float, default=4.0, help="synthetic: how many of them are active on a row, mean")
    parser.add_argument("--dimensions", type=int, default=128, help="synthetic: d_mlp")
    parser.add_argument("--rows", type=int, default=400_000, help="to train on")
    parser.add_argument("--l0", type=float, help="wanted; 6 on synthetic rows, else 15")
    parser.add_argument("--l1", type=float, default=3.0, help="λ at which a search begins")
    parser.add_argument("--tolerance", type=float, default=0.05, help="of L0, relative")
    parser.add_argument("--width", type=int, help="512, on activations 1,024")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, help="2,000, on activations 600")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS), metavar="NAME")
    parser.add_argument("--rates", nargs="+", type=float, metavar="LR", help="learning rates to try in place of each one's own")
    parser.add_argument("--json", type=Path, help="write every result here, after each contestant")
    given = parser.parse_args(arguments)
    synthetic = given.subject == "synthetic"
    given.l0, given.width = given.l0 or (6.0 if synthetic else 15.0), given.width or (512 if synthetic else 1024)
    given.steps = given.steps or (2000 if synthetic else 600)
    return given


def run(given: argparse.Namespace) -> None:
    torch.set_num_threads(given.threads)
    if given.subject == "synthetic":
        config = SyntheticConfig(n_features=given.true_features, d_mlp=given.dimensions, mean_l0=given.true_l0)
        subject: Subject = Synthetic(config, given.rows)
    else:
        subject = Activations(given.data, given.letter, given.rows, given.loss_tokens)
    sizes = Sizes(steps=given.steps, width=given.width, batch_size=given.batch, threads=given.threads)
    aim = Aim(l0=given.l0, tolerance=given.tolerance, start=given.l1)
    entries: dict[str, Entry] = {}
    for name in given.contestants:
        print(name, file=sys.stderr, flush=True)
        contestant = CONTESTANTS[name]._replace(learning_rates=tuple(given.rates)) if given.rates else CONTESTANTS[name]
        entries[name] = compete(contestant, subject, sizes, aim, given.seeds)
        if not contestant.by_target:
            aim = dataclasses.replace(aim, start=entries[name].sparsity)
        print(report(entries, aim), flush=True)
        if given.json:
            conditions = {key: str(value) if isinstance(value, Path) else value for key, value in vars(given).items()}
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(record(entries, conditions), indent=1) + "\n", encoding="utf-8")


def main() -> None:
    given = parse()
    try:
        run(given)
    except SaeError as error:
        print(f"quality: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
