"""Files that params name and people may change: which they are, and their digests, cheaply.

A file's digest is kept with its size, times and inode, and taken again where one of these differs. The time of the last change
of an inode (ctime) cannot be set by hand, so a file that was written over and given its old date is noticed too.
"""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sae import artefact
from sae.provenance import sha256_file

SETTLED = 2_000_000_000
"""Nanoseconds that a file must have rested for its digest to be kept: changed twice in a tick of the clock it looks the same."""
LARGE = 1_000_000_000
"""Bytes to digest from which it is told, since it takes seconds."""


class Digests:
    """sha256 of files, kept from run to run in the file `known`."""

    def __init__(self, known: Path):
        self._known = known
        try:
            kept = json.loads(known.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            kept = {}
        entries = kept.items() if isinstance(kept, dict) else ()
        self._kept: dict[str, Any] = {path: entry for path, entry in entries if isinstance(entry, list) and len(entry) == 2}
        self._used: dict[str, Any] = {}

    def of(self, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
        """Size in bytes and digest of each file, by its path as it was given."""
        states = {path: _state(path) for path in paths}
        changed = {path for path, state in states.items() if self._kept.get(_key(path), [None])[0] != state}
        n_bytes = sum(states[path][0] for path in changed)
        if n_bytes > LARGE:
            print(f"inputs: digests of {n_bytes / 1e9:.1f} GB in {len(changed):,} files are taken, once", flush=True)
        found = {}
        for path, state in states.items():
            digest = sha256_file(path) if path in changed else self._kept[_key(path)][1]
            if time.time_ns() - max(state[1:3]) > SETTLED:
                self._used[_key(path)] = [state, digest]
            found[_text(path)] = {"bytes": state[0], "sha256": digest}
        return found

    def keep(self) -> None:
        """Write down those that were used."""
        artefact.write_text(self._known, json.dumps(self._used, indent=0, sort_keys=True) + "\n")


def _state(path: Path) -> list[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _key(path: Path) -> str:
    return _text(Path(os.path.abspath(path)))


def _text(path: Path) -> str:
    """A name's bytes that are not UTF-8 as `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
