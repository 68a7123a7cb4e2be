"""Being asked to stop: SIGTERM and SIGINT set a flag that the training loop looks at between steps."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stop(BaseException):
    """Raised in the training loop after a request to stop, when everything is saved. Not an `Exception`: nothing should
    swallow it."""

    def __init__(self, signum: int):
        self.signum = signum
        super().__init__(f"stopped by {signal.Signals(signum).name}")


class Stopped(SystemExit):
    """SIGTERM has ended a training that had no checkpoints: what it had come to would else be lost."""

    def __init__(self, code: int, trained: Sequence[Any]):
        super().__init__(code)
        self.trained = trained
        """`sae.training.fit.Trained` of each config as it was then, marked as stopped in its dictionary's record."""


class StopRequest:
    """`check()` raises `Stop` once a signal has come."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def handle(self, signum: int, _: FrameType | None) -> None:
        if self.signum == signum == signal.SIGINT:  # asked twice: whoever waits for a batch that never comes
            raise KeyboardInterrupt
        self.signum = signum

    def check(self) -> None:
        if self.signum is not None:
            raise Stop(self.signum)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """A request that SIGTERM and SIGINT make for as long as the block lasts; what handled them before does so again afterwards.
    Outside the main thread, where Python handles no signals, nothing is changed."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
