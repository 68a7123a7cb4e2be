"""How long one training step takes on the same rows and weights: this project's, plain PyTorch's and the peers'.

    python -m benchmarks.train_step                         # n = 512, m = 4,096, batch 4,096, L0 20
    python -m benchmarks.train_step --l0 20 60 200 5% 50%   # a table for each density
    python -m benchmarks.train_step --m 65536 --contestants plain ours
    python -m benchmarks.train_step --rows data/A/activations gelu   # the pipeline's own rows, and others, in turn

Two measurements of each contestant, each in processes of their own: wall time on 2 threads with only quiet repeats kept, and CPU
seconds on one pinned thread, which other processes cannot lengthen by taking the processor (they can by filling the caches). How
to read the tables: docs/benchmarks.md.
"""

import argparse
import itertools
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import CONTESTANTS
from benchmarks.harness import Repeat, Summary, Worker, interleave, provenance, summarise, table, timed, write_record
from benchmarks.peers import environment
from benchmarks.problem import NONLINEARITIES, TRAINING_L1, check_rows, parse_l0, write_problem
from benchmarks.quiet import Limits
from sae.errors import ConfigError, SaeError

LEARNING_RATE = 1e-7
"""So small that L0 stays where it was put while the steps are timed."""
N_BATCHES = 16
N_CHECKED = 512
DEFAULT_SHAPE = (4096, 4096)
"""Features and batch of the issue's targets."""


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One of the two measurements."""

    name: str
    threads: int
    cpu: int | None
    """The one it is pinned to."""
    limits: Limits | None

    def seconds(self, repeat: Repeat) -> float:
        return repeat.wall_s if self.limits else repeat.cpu_s


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a whole call; field by field the command's options."""

    m: int
    batch: int
    l0: tuple[str, ...]
    contestants: tuple[str, ...]
    rounds: int
    attempts: int
    seconds: float
    """A repeat takes as many steps as fit in this, at least one."""
    training_steps: int
    modes: tuple[str, ...]
    rows: tuple[str, ...]
    """Kinds of rows (`problem.NONLINEARITIES`), or paths of activation stores."""


def modes(names: Sequence[str]) -> list[Mode]:
    last = max(os.sched_getaffinity(0))
    every = {
        "wall": Mode(name="2 threads, wall", threads=2, cpu=None, limits=Limits()),
        "cpu": Mode(name="1 thread pinned, CPU", threads=1, cpu=last, limits=None),
    }
    return [every[name] for name in names]


def start(name: str, mode: Mode, problem: Path, batch: int) -> tuple[Worker, dict[str, Any]]:
    """A worker that has loaded `problem`, and the versions that it found."""
    python = str(environment()) if CONTESTANTS[name].peers else sys.executable
    print(f"{mode.name}: {name}", file=sys.stderr, flush=True)
    worker = Worker(name, [python, "-m", "benchmarks.worker"], threads=mode.threads, cpu=mode.cpu)
    loaded = worker.ask(
        {
            "do": "load",
            "name": name,
            "problem": str(problem),
            "l1": TRAINING_L1,
            "learning_rate": LEARNING_RATE,
            "batch_size": batch,
        }
    )
    return worker, loaded


def check_same_task(checks: dict[str, dict[str, float]]) -> None:
    """Raises `ConfigError` where a contestant's L0 or squared error is not that of the others (before any step is timed)."""
    compared = {name: check for name, check in checks.items() if CONTESTANTS[name].l1}
    strictest = min((CONTESTANTS[name].within for name in compared), default=0.0)
    for quantity in ("l0", "squared_error"):
        exact = [check[quantity] for name, check in compared.items() if CONTESTANTS[name].within == strictest]
        finite = [value for value in exact if math.isfinite(value)]
        middle = statistics.median(finite) if finite else math.nan
        for name, check in compared.items():
            if not abs(check[quantity] - middle) <= CONTESTANTS[name].within * middle:
                raise ConfigError(
                    f"{name} does another task: {quantity} {check[quantity]:.6g} on rows and weights where the exact contestants "
                    f"have {middle:.6g} (allowed: {CONTESTANTS[name].within:g} relative); see its stepper in benchmarks/steppers"
                )


def measure(mode: Mode, problem: Path, settings: Settings) -> dict[str, dict[str, Any]]:
    """Everything known of each contestant in `mode`: versions, checks before and after, repeats, summary."""
    found: dict[str, dict[str, Any]] = {}
    workers: dict[str, Worker] = {}
    try:
        for name in settings.contestants:
            workers[name], versions = start(name, mode, problem, settings.batch)
            found[name] = {"versions": versions, "before": workers[name].ask({"do": "check"})}
        check_same_task({name: each["before"] for name, each in found.items()})
        print(f"{mode.name}: timing", file=sys.stderr, flush=True)
        steps = {}
        for name, worker in workers.items():
            worker.ask({"do": "run", "steps": CONTESTANTS[name].warm_up})
            once = worker.ask({"do": "run", "steps": 1})["wall_s"]
            steps[name] = max(1, math.ceil(settings.seconds / once))
        calls = {name: lambda worker=worker, n=steps[name]: timed(worker, n, mode.limits) for name, worker in workers.items()}
        for name, repeats in interleave(calls, rounds=settings.rounds, attempts=settings.attempts).items():
            summary = summarise(repeats, mode.seconds, settings.rounds)
            after = workers[name].ask({"do": "check"})
            found[name] |= {"repeats": [asdict(each) for each in repeats], "summary": summary._asdict(), "after": after}
    finally:
        for worker in workers.values():
            worker.close()
    return found


def ratio(above: float, below: float, digits: int) -> str:
    """As text; a dash where one of the two was not measured."""
    return "-" if math.isnan(above / below) else f"{above / below:.{digits}f}"


def render(mode: Mode, found: dict[str, dict[str, Any]], settings: Settings, at_target: bool) -> str:
    """The table of one mode. `at_target`: the shape is the one that the targets are set for."""
    base = found.get("plain", {}).get("summary", {}).get("median", math.nan)
    ours = found.get("ours", {}).get("summary", {}).get("median", math.nan)
    rows = []
    for name, each in found.items():
        summary, after = Summary(**each["summary"]), each["after"]
        target = CONTESTANTS[name].target if at_target else None
        rows.append(
            [
                CONTESTANTS[name].about,
                f"{summary.median:.1f}",
                f"{summary.low:.1f}-{summary.high:.1f}",
                f"{settings.batch / summary.median:.1f}k",
                ratio(base, summary.median, 2),
                ratio(summary.median, ours, 1) + (f" (to be {target:g})" if target else ""),
                f"{after['l0']:.2f}",
                f"{after['peak_mb']:.0f} (+{after['steps_mb']:.0f})",
                f"{summary.n_kept} of {summary.n_tried}" + ("" if summary.quiet else ", NOT QUIET"),
            ]
        )
    header = ["", "ms a step", "quartiles", "rows/s", "x plain", "ours faster by", "L0", "peak MB (steps)", "repeats kept"]
    return f"**{mode.name}**\n\n{table(header, rows)}"


def run(settings: Settings) -> dict[str, Any]:
    """Print the tables as they come; the record of all of it. Wrong rows or L0 are told before the first."""
    check_rows(settings.rows)
    wanted = [(text, parse_l0(text, settings.m)) for text in settings.l0]
    record: dict[str, Any] = {"settings": asdict(settings), **provenance(), "results": []}
    for kind, (text, l0) in itertools.product(settings.rows, wanted):
        with tempfile.TemporaryDirectory() as folder:
            problem = Path(folder, "problem.safetensors")
            d_mlp, nonzero = write_problem(
                problem,
                n_features=settings.m,
                l0=l0,
                batch_size=settings.batch,
                n_batches=N_BATCHES,
                n_checked=N_CHECKED,
                steps=settings.training_steps,
                kind=kind,
            )
            rows = f"{kind} rows, {nonzero:.0%} of x nonzero"
            print(f"\n## n = {d_mlp}, m = {settings.m:,}, batch {settings.batch:,}, L0 {l0:g}; {rows}\n")
            at_target = (settings.m, settings.batch) == DEFAULT_SHAPE and text == "20"
            for mode in modes(settings.modes):
                found = measure(mode, problem, settings)
                result = {"rows": kind, "nonzero": nonzero, "l0": l0, "mode": mode.name, "contestants": found}
                record["results"].append(result)
                print(render(mode, found, settings, at_target), flush=True)
                print()
    return record


def parse() -> tuple[Settings, Path | None]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--m", type=int, default=4096, help="features; above 4,096 untrained (see benchmarks/problem.py)")
    parser.add_argument("--batch", type=int, help="rows a step; 4,096, at --m 65536 and above 2,048")
    parser.add_argument(
        "--l0", nargs="+", default=["20"], help="active features a row, or a share such as 5%%; each makes tables"
    )
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5, help="quiet repeats wanted of each")
    parser.add_argument("--attempts", type=int, default=5, help="give up after this many times as many repeats")
    parser.add_argument("--seconds", type=float, default=0.6, help="of steps in one repeat, at least one step")
    parser.add_argument("--training-steps", type=int, default=600, help="of the weights at m = 4,096; cached")
    parser.add_argument("--modes", nargs="+", default=["wall", "cpu"], choices=["wall", "cpu"])
    kinds = ", ".join(f"{name} ({about})" for name, about in NONLINEARITIES.items())
    parser.add_argument(
        "--rows", nargs="+", default=["relu", "relu-half"], help=f"{kinds}; or an activation store's path".replace("%", "%%")
    )
    parser.add_argument("--json", type=Path, help="write all repeats, versions and the machine here")
    given = vars(parser.parse_args())
    path = given.pop("json")
    given["batch"] = given["batch"] or (2048 if given["m"] >= 65536 else 4096)
    if min(given["m"], given["batch"], given["rounds"], given["attempts"]) < 1 or given["batch"] < N_CHECKED:
        parser.error(f"--m, --rounds and --attempts must be at least 1, --batch at least {N_CHECKED}")
    settings: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return Settings(**settings), path


def main() -> None:
    settings, path = parse()
    try:
        record = run(settings)
        if path is not None:
            write_record(path, record)
    except SaeError as error:
        print(f"train_step: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
