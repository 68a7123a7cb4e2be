"""What benchmarks share: workers commanded over pipes, repeats taken in turn and kept when the machine was quiet, medians,
tables, and a record of where the figures come from."""

import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers import ROOT, child_environment
from benchmarks.quiet import Limits, wait_until_quiet
from sae.errors import SaeError
from sae.provenance import code_revision


class WorkerError(SaeError, RuntimeError):
    """A contestant's process died, or did not answer in time."""

    exit_code = 70


class Worker:
    """A process that answers one line of JSON for each line of JSON."""

    def __init__(self, name: str, command: Sequence[str], *, threads: int, cpu: int | None = None):
        """`cpu` pins it to that one; None leaves it where the parent may run."""
        self.name = name
        self.errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed in `close`)
        pin = [] if cpu is None else ["taskset", "--cpu-list", str(cpu)]
        self.process = subprocess.Popen(
            [*pin, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=ROOT,
            env=child_environment(threads),
        )

    def ask(self, command: Mapping[str, Any], timeout_s: float = 900.0) -> dict[str, Any]:
        """Send and wait. Raises `WorkerError` with the end of the process's stderr where no answer comes."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            print(json.dumps(command), file=stdin, flush=True)
            ready = select.select([stdout], [], [], timeout_s)[0]
        except BrokenPipeError:
            ready = [stdout]
        line = (
            stdout.readline() if ready else ""
        )  # one answer a question: nothing is left in the reader's buffer for select to miss
        if not line:
            self.errors.seek(0)
            last = "\n".join(self.errors.read().splitlines()[-12:])
            fate = "ended" if ready else f"did not answer within {timeout_s:g} s"
            self.process.kill()
            self.close()
            raise WorkerError(f"{self.name} {fate} after {dict(command)}; the end of its output:\n{last}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process and forget it. May be called twice."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One timing of some steps."""

    steps: int
    wall_s: float
    """Of all the steps."""
    cpu_s: float
    """The process's own CPU time over them, all threads."""
    others_s: float
    """CPU time of all else on the machine meanwhile."""
    quiet: bool


def interleave(measure: Mapping[str, Callable[[], Repeat]], *, rounds: int, attempts: int) -> dict[str, list[Repeat]]:
    """Take repeats in turn, so that a drift of the machine falls on all alike, until each contestant has `rounds` quiet ones or
    has been asked `rounds * attempts` times. All repeats are returned, loud ones too."""
    taken: dict[str, list[Repeat]] = {name: [] for name in measure}
    for _ in range(rounds * attempts):
        for name, repeat in measure.items():
            if sum(each.quiet for each in taken[name]) < rounds:
                taken[name].append(repeat())
    return taken


def timed(worker: Worker, steps: int, limits: Limits | None) -> Repeat:
    """One repeat of `steps` steps, which is quiet if `limits` say so of before and during; without limits, always."""
    before = limits is None or wait_until_quiet(limits)
    answer = worker.ask({"do": "run", "steps": steps})
    quiet = limits is None or (before and limits.quiet_during(answer["others_s"], answer["wall_s"]))
    return Repeat(**answer, quiet=quiet)


class Summary(NamedTuple):
    """Of one contestant's repeats, in milliseconds a step."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile; high - low is the spread that tables show."""
    n_kept: int
    """Repeats behind these figures."""
    n_tried: int
    quiet: bool
    """There were as many quiet repeats as asked for, and the figures are theirs. If not, all repeats count, with a mark."""


def summarise(repeats: Sequence[Repeat], seconds: Callable[[Repeat], float], rounds: int) -> Summary:
    """Median and quartiles of `seconds(repeat) / repeat.steps`, over the quiet repeats where there are `rounds` of them, else
    over all, marked."""
    kept = [repeat for repeat in repeats if repeat.quiet]
    quiet = len(kept) >= rounds
    values = [1e3 * seconds(repeat) / repeat.steps for repeat in (kept if quiet else repeats)]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Summary(median, low, high, len(values), len(repeats), quiet)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, numbers to the right, padded so that it reads as plain text too."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * width if i == 0 else "-" * (width - 1) + ":") for i, width in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def machine() -> dict[str, Any]:
    """Processor, its matrix extensions, number of CPUs this process may use, memory, kernel, load when asked."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = dict(line.split(":", 1) for line in cpu.splitlines() if ":" in line)
    found = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(found.get("flags", "").split())
    memory = Path("/proc/meminfo").read_text(encoding="ascii").partition("\n")[0].split()[1]
    return {
        "processor": found.get("model name", platform.machine()),
        "extensions": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(memory) / 2**20, 1),
        "kernel": platform.release(),
        "load": Path("/proc/loadavg").read_text(encoding="ascii").split()[:3],
    }


def provenance() -> dict[str, Any]:
    """What a figure is worth nothing without: the machine, Python, the git revision (with `+` where the library had changes)."""
    return {"machine": machine(), "python": sys.version.split()[0], "code": code_revision()}


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.rename(path)
