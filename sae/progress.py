"""Progress of a stage that takes more than a few seconds: a bar on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


class ProgressBar:
    """`with ProgressBar("train", total=1000) as bar: ... bar.advance(1, "loss 0.3")`. Writes to stderr."""

    def __init__(self, label: str, total: int):
        self.label, self.total, self.done = label, total, 0
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"))
            self._task = self._bar.add_task(label, total=total, note="")

    def __enter__(self) -> "ProgressBar":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()
        elif error is None and time.monotonic() - self._start > SECONDS_BETWEEN_LINES:
            print(f"{self.label}: done in {time.monotonic() - self._start:.0f} s", file=sys.stderr, flush=True)

    def advance(self, n: int, note: str = "") -> None:
        """`n` more of `total` are done; `note` stands beside the bar."""
        self.done += n
        if self._bar:
            self._bar.update(self._task, advance=n, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES and self.done:
            self._last_line = now
            left = (now - self._start) / self.done * (self.total - self.done)
            percent = 100 * self.done / max(self.total, 1)
            print(f"{self.label}: {percent:.0f} %, {left:.0f} s left  {note}", file=sys.stderr, flush=True)


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Yield `items`, counting them."""
    with ProgressBar(label, total) as bar:
        for item in items:
            yield item
            bar.advance(1)
