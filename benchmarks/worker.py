"""One contestant in its own interpreter, commanded by lines of JSON on stdin, answering by lines of JSON on what was stdout.

Started by `harness.Worker`. Imports what both environments have (torch, safetensors), and the contestant's own module by name.
Whatever a contestant prints goes to stderr, so that it cannot damage the protocol.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.contestants import CONTESTANTS
from benchmarks.memory import forget_peak, status_kilobytes
from benchmarks.quiet import read_busy_seconds

CHECK_ROWS = 512
"""Rows on which each contestant says its L0 and squared error."""


class Stepper(Protocol):
    """What a contestant's `make` returns."""

    def step(self, x: Tensor) -> object:
        """One whole training step on the batch `x` [row, d_mlp]; what it returns is not looked at."""

    def measure(self, x: Tensor) -> tuple[float, float]:
        """L0 and Σ_d (x − x̂)², means over the rows of `x`, by the contestant's own encoder and decoder."""


def clocked(step: Callable[[], object], steps: int) -> dict[str, float]:
    """Time `steps` calls. `others_s` is what else ran on the machine in the meantime, in CPU seconds."""
    busy, cpu, wall = read_busy_seconds(), time.process_time(), time.perf_counter()
    for _ in range(steps):
        step()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    others = max(0.0, read_busy_seconds() - busy - cpu)
    return {"steps": steps, "wall_s": wall, "cpu_s": cpu, "others_s": others}


class Session:
    """The contestant, the rows it steps on, and the commands."""

    def __init__(self, name: str, problem: str, l1: float, learning_rate: float, batch_size: int):
        contestant = CONTESTANTS[name]
        module, _, function = contestant.make.partition(":")
        make = getattr(importlib.import_module(module), function)
        tensors = load_file(problem)
        self.batches = tensors.pop("rows").split(batch_size)
        self.stepper: Stepper = make(tensors, l1=l1, learning_rate=learning_rate, batch_size=batch_size, **contestant.options)
        self.n_steps = 0
        self.resident_kb = forget_peak()  # loading is not counted

    def run(self, steps: int) -> dict[str, float]:
        """Time `steps` steps."""

        def step() -> None:
            self.stepper.step(self.batches[self.n_steps % len(self.batches)])
            self.n_steps += 1

        return clocked(step, steps)

    def check(self) -> dict[str, float]:
        """L0 and squared error on the first rows; peak memory of the steps so far, and how much of it came after loading, MB."""
        peak = status_kilobytes("VmHWM")
        l0, squared_error = self.stepper.measure(self.batches[0][:CHECK_ROWS])
        return {
            "l0": l0,
            "squared_error": squared_error,
            "peak_mb": peak / 1024,
            "steps_mb": (peak - self.resident_kb) / 1024,
        }


def versions() -> dict[str, str]:
    """Of the packages that could be timed here; torch's threads as it counts them."""
    found = {"threads": str(torch.get_num_threads())}
    for package in ("torch", "numba", "transformer-lens", "sae-lens", "dictionary-learning", "eai-sparsify"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def serve(answer: Callable[[Any], None], make: Callable[..., Any]) -> None:
    """Obey until stdin ends. What `make` returns has `run` and `check`, as `Session` has."""
    session: Any = None
    for line in sys.stdin:
        command = json.loads(line)
        verb = command.pop("do")
        if verb == "load":
            session = make(**command)
            answer(versions())
        elif session is not None:
            answer(session.run(**command) if verb == "run" else session.check())


def main(make: Callable[..., Any] = Session) -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def answer(reply: Any) -> None:
        print(json.dumps(reply), file=replies, flush=True)

    serve(answer, make)


if __name__ == "__main__":
    main()
