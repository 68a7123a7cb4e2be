"""Artefacts that are read while others may be put in their place."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sae.errors import StoreError
from sae.foreign import RUN_FILE
from sae.provenance import sha256_file

T = TypeVar("T")


def steadily(path: str | Path, read: Callable[[], T]) -> T:
    """What `read` finds in the artefact `path`, once more where that was replaced meanwhile: a record of
    the old one and files of the new one are neither."""
    while True:
        before = _identity(path)
        try:
            found = read()
        except OSError:  # ours for what is damaged, missing or refused too
            if before is None or before == _identity(path):
                raise
            continue
        if before == _identity(path):
            return found


class Opened:
    """An artefact as it was opened, of which more is read later."""

    def __init__(self, path: Path):
        self.path = path
        self._digest = _digest(path)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What is read within it is of that artefact. Raises `StoreError` where another has taken its
        place, whatever else was raised: files of the new one are neither's."""
        try:
            yield
        finally:
            if _digest(self.path) != self._digest:
                raise StoreError(f"{self.path} was replaced or removed since it was opened; open or load it again")


def _digest(path: Path) -> str:
    """Of the record, which names every file's; "" where there is none. The same bytes may have been put
    there anew, as DVC does."""
    try:
        return sha256_file(path / RUN_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _identity(path: str | Path) -> tuple[int, ...] | None:
    """Tells one commit of an artefact from the next."""
    try:
        found = os.stat(Path(path) / RUN_FILE)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
