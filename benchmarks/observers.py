"""What watching a run costs a step: W&B disabled, offline, with a server that refuses, and with one that never answers.

    OMP_NUM_THREADS=1 python -m benchmarks.observers [--rounds 6] [--seconds 8]

A loop of plain torch work, about 30 ms a step, with the local log and a record in every step (the pipeline records every
50th). A round runs each kind for a while, in another order each time, with that kind's mirror alone alive: what the mirror
takes of the machine is in the figures. The first seconds, in which the mirror imports wandb, stand apart. Ratios are of a
kind's step to that of `disabled` in the same round: of wall times the fastest fifth's limit (quiet repeats, where other
work shares the machine), of the thread's processor times the median. `record` is the time within `WandbLog` itself.
"""

import argparse
import os
import random
import socket
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from sae.config import build
from sae.training.observers import JsonLog, WandbLog
from sae.training.wandb_config import WandbConfig

SECONDS_OF_START = 3.0
DENSITY = (np.arange(45), np.linspace(-9, 0, 46))
VALUES = {f"value_{i}": float(i) for i in range(15)} | {"log10_density": DENSITY}


@dataclass
class Measured:
    """Seconds; steps of one round and kind, or of all rounds."""

    first: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    record: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)


def measure(folder: Path, kind: str, url: str, work: Callable[[], object], seconds: float) -> Measured:
    os.environ |= {"WANDB_BASE_URL": url or "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    mode = {"disabled": "disabled", "offline": "offline"}.get(kind, "online")
    measured, log = Measured(), folder / "run.jsonl"
    rows, clock = JsonLog(log), time.perf_counter
    rows.start(None)
    begun = clock()
    mirror = WandbLog(build(WandbConfig, {"mode": mode, "directory": str(folder)}, "wandb"), kind, {}, log=log)
    mirror.start(None)
    measured.start.append(clock() - begun)
    number = 0
    while clock() - begun < seconds:
        start, cpu, number = clock(), time.thread_time(), number + 1
        work()
        rows.record(number, VALUES)
        before = clock()
        mirror.record(number, VALUES)
        mirror.advance(1)
        end = clock()
        measured.cpu.append(time.thread_time() - cpu)
        measured.record.append(end - before)
        (measured.first if start - begun < SECONDS_OF_START else measured.later).append(end - start)
    ending = clock()
    mirror.close()
    measured.end.append(clock() - ending)
    rows.close()
    return measured


def products(x: torch.Tensor, n: int) -> None:
    for _ in range(n):
        x @ x


def quiet(times: list[float]) -> float:
    return statistics.quantiles(times, n=5)[0]


def ratios(rounds: list[dict[str, Measured]], kind: str, phase: str) -> str:
    of = statistics.median if phase == "cpu" else quiet
    found = [of(getattr(one[kind], phase)) / of(getattr(one["disabled"], phase)) for one in rounds]
    return f"{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    os.environ.pop("WANDB_MODE", None)
    staller = socket.create_server(("127.0.0.1", 0), backlog=1024)
    urls = {"disabled": "", "offline": "", "refuses": "http://127.0.0.1:9"}
    urls["stalls"] = f"http://127.0.0.1:{staller.getsockname()[1]}"
    x = torch.randn(512, 512)
    n = max(1, round(0.03 / statistics.median(timeit.repeat(lambda: x @ x, number=1, repeat=50))))
    rounds: list[dict[str, Measured]] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for number in range(options.rounds):
            rounds.append({})
            for kind in random.sample(list(urls), len(urls)):
                place = Path(folder, f"{number}-{kind}")
                rounds[-1][kind] = measure(place, kind, urls[kind], lambda: products(x, n), options.seconds)
    print(
        f"{torch.get_num_threads()} torch threads, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {len(rounds)} rounds\n"
    )
    print(
        f"| W&B | start, ms | step, ms | ratio, first {SECONDS_OF_START:g} s | ratio, later | ratio, CPU | record, µs | end, s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for kind in urls:
        start, later, record, end = (
            statistics.median(value for one in rounds for value in getattr(one[kind], name))
            for name in ("start", "later", "record", "end")
        )
        compared = " | ".join(ratios(rounds, kind, phase) for phase in ("first", "later", "cpu"))
        print(f"| {kind} | {1e3 * start:.1f} | {1e3 * later:.2f} | {compared} | {1e6 * record:.1f} | {end:.2f} |")


if __name__ == "__main__":
    main()
