"""Errors of the disk where a test wants them: the k-th write, fsync or rename of this process fails, or ends it."""

import builtins
import errno
import io
import os
from collections.abc import Callable
from typing import Any


class Disk:
    """Counts what changes the disk; raises `OSError(error)` at operation `at` and, where it `stays`, at all after it; with error
    0 the process ends there, as if killed."""

    def __init__(self, at: int | None, error: int = errno.EIO, *, stays: bool = False):
        self.at, self.error, self.stays, self.n = at, error, stays, 0

    def __call__(self, what: Any) -> None:
        if self.at is not None and (self.n == self.at or (self.stays and self.n > self.at)):
            self.n += 1
            if self.error == 0:
                os._exit(137)
            raise OSError(self.error, os.strerror(self.error), str(what))
        self.n += 1


class _File:
    """A file whose writes are counted. Half of what a failing write was to write is written."""

    def __init__(self, file: Any, disk: Disk):
        self._file, self._disk = file, disk

    def write(self, data: Any) -> int:
        try:
            self._disk(f"write to {self._file.name}")
        except OSError:
            self._file.write(data[: len(data) // 2])
            raise
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __iter__(self) -> Any:
        return iter(self._file)


def install(disk: Disk) -> None:
    """For the rest of this process (a fork that ends soon)."""
    opened = io.open

    def open_counted(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        found = opened(file, mode, *args, **kwargs)
        return _File(found, disk) if any(letter in mode for letter in "wax+") else found

    io.open = builtins.open = open_counted
    os.fsync = lambda descriptor: None  # no power is cut here: what matters is whether it fails
    for name in ("fsync", "replace", "rename", "link"):
        setattr(os, name, _counted(name, getattr(os, name), disk))


def _counted(name: str, function: Callable[..., Any], disk: Disk) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        disk(f"{name} {args[:1]}")
        return function(*args, **kwargs)

    return counted
