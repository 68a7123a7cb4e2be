"""Progress of a stage that takes more than a few seconds: a bar on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_REDRAWS = 0.5
"""In a notebook, where one line is written over and over."""


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook, which shows what is written to stderr, and is no terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def is_watched() -> bool:
    """Whether somebody presumably looks on."""
    return sys.stderr.isatty() or in_notebook()


class ProgressBar:
    """`with ProgressBar("train", total=1000) as bar: ... bar.advance(1, "loss 0.3")`. Writes to stderr."""

    def __init__(self, label: str, total: int):
        self.label, self.total, self.done = label, total, 0
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        self._notebook = in_notebook()
        if self._notebook:
            return
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"))
            self._task = self._bar.add_task(label, total=total, note="")

    def __enter__(self) -> "ProgressBar":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        took = time.monotonic() - self._start
        whole = error is None and self.done >= self.total
        told = f"{self.label}: done in {took:.0f} s" if whole else f"{self.label}: stopped at {self.done:,} of {self.total:,}"
        if self._bar:
            self._bar.stop()
        elif self._notebook:
            print(f"\r{told:<100}", file=sys.stderr, flush=True)
        elif took > SECONDS_BETWEEN_LINES:
            print(told, file=sys.stderr, flush=True)

    def advance(self, n: int, note: str = "") -> None:
        """`n` more of `total` are done; `note` stands beside the bar."""
        self.done += n
        if self._bar:
            self._bar.update(self._task, advance=n, note=note)
            return
        now = time.monotonic()
        pause = SECONDS_BETWEEN_REDRAWS if self._notebook else SECONDS_BETWEEN_LINES
        if now - self._last_line >= pause and self.done:
            self._last_line = now
            left = (now - self._start) / self.done * (self.total - self.done)
            percent = 100 * self.done / max(self.total, 1)
            line = f"{self.label}: {percent:.0f} %, {left:.0f} s left  {note}"
            print(f"\r{line:<100}" if self._notebook else line, end="" if self._notebook else "\n", file=sys.stderr, flush=True)


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Yield `items`, counting them."""
    with ProgressBar(label, total) as bar:
        for item in items:
            yield item
            bar.advance(1)
