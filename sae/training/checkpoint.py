"""Checkpoints: all that the next steps depend on, written so that a kill at any instant leaves a whole one to go on from.

One is two files: `step-N.safetensors` (no pickle) and, written after it, `step-N.json` with its sha256, the numbers, who it
belongs to, and a digest of its own content. Both are written aside, synced and renamed. The last two are kept: a damaged one
falls back to the one before, and says so.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from sae import artefact
from sae.errors import ConfigError, raise_if_of_disk
from sae.provenance import sha256_file
from sae.tensors import save_tensors

KEPT = 2
SCHEMA = 1


class Checkpoint(NamedTuple):
    """One as read."""

    step: int
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    def of(self, i: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and numbers of trainer `i`."""
        prefix = f"{i}."
        own = {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}
        return own, self.numbers["trainers"][i]


class Checkpoints:
    """The checkpoints of one run in `folder`. `identity` says what run that is (JSON): configs, data; nothing of another is
    read."""

    def __init__(self, folder: str | Path, identity: dict[str, Any]):
        self.folder = Path(folder)
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training in the same folder. Raises `LockedError`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise_if_of_disk(error, f"making {self.folder}")
            raise ConfigError(f"checkpoints '{self.folder}' cannot be a folder: {error}") from None
        with artefact.locked(self.folder / ".lock", f"the checkpoints in {self.folder} are being trained with"):
            yield

    def save(self, step: int, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Write one, then remove those before the last two. Raises `DiskError` where the disk is full; older ones stay then.

        `step` is its number, or the next that is free: its two files are never written over, as a kill between them would cost
        both states."""
        step = max([step, *(there + 1 for there in self._steps()[:1])])
        path = self.folder / f"step-{step:010d}.safetensors"
        with artefact.replacing(path) as partial:
            save_tensors(tensors, partial)
            digest = sha256_file(partial)
        record = {"schema": SCHEMA, "step": step, "sha256": digest, "identity": self.identity, "numbers": numbers}
        artefact.write_text(path.with_suffix(".json"), json.dumps({**record, "digest": _digest(record)}) + "\n")
        for old in self._steps()[KEPT:]:
            self._remove(old)

    def latest(self, *, discard_foreign: bool = False) -> Checkpoint | None:
        """The newest whole one; None where there is none. A damaged one is passed over, told on stderr, and removed.

        Raises `ConfigError` where the newest belongs to another run, or with `discard_foreign` removes them all and says so."""
        self._sweep()
        for step in self._steps():
            try:
                return self._read(step)
            except _DamagedError as error:
                name = f"{self.folder.name}/step-{step:010d}"
                print(f"checkpoint {name} is damaged ({error}): going on from the one before, if there is one", file=sys.stderr)
                self._remove(step)
            except ConfigError as error:
                if not discard_foreign:
                    raise
                print(f"starting afresh: {error}", file=sys.stderr)
                _remove_all(self.folder)  # not the lock: it may be held
                break
        return None

    def _sweep(self) -> None:
        """Remove what a kill left of checkpoints: files begun, and tensors without their record."""
        for left in [*self.folder.glob("*.partial"), *self.folder.glob(".tmp*"), *self.folder.glob("step-*.safetensors")]:
            if left.is_file() and (left.suffix != ".safetensors" or not left.with_suffix(".json").exists()):
                left.unlink(missing_ok=True)

    def _steps(self) -> list[int]:
        """Steps of the records there, newest first."""
        numbers = [path.stem.removeprefix("step-") for path in self.folder.glob("step-*.json") if path.is_file()]
        return sorted((int(number) for number in numbers if len(number) >= 10 and number.isdecimal()), reverse=True)

    def _remove(self, step: int) -> None:
        """The record first: without it the tensors are nothing."""
        for suffix in (".json", ".safetensors"):
            (self.folder / f"step-{step:010d}{suffix}").unlink(missing_ok=True)

    def _read(self, step: int) -> Checkpoint:
        path = self.folder / f"step-{step:010d}.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            stated = record.pop("digest")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise_if_of_disk(error, f"reading {path}")  # no damage, for which it would be removed
            raise _DamagedError(f"its record cannot be read: {error}") from None
        if stated != _digest(record):
            raise _DamagedError("its record is not what was written")
        if record["identity"] != self.identity:
            raise ConfigError(
                f"the checkpoints in {self.folder} are of another run: {_difference(record['identity'], self.identity)}; "
                "go on with what they were made with, or delete the folder to start afresh"
            )
        try:
            data = path.with_suffix(".safetensors").read_bytes()
        except OSError as error:
            raise_if_of_disk(error, f"reading {path}")
            raise _DamagedError(f"its tensors cannot be read: {error}") from None
        actual = hashlib.sha256(data).hexdigest()
        if actual != record["sha256"]:
            raise _DamagedError(f"sha256 of its tensors is {actual}, written as {record['sha256']}")
        try:
            return Checkpoint(step, load(data), record["numbers"])
        except SafetensorError as error:
            raise _DamagedError(str(error)) from None


def clear_checkpoints(folder: Path) -> None:
    """Remove all checkpoints in `folder`, and the folder if nothing else is in it."""
    _remove_all(folder)
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {".lock"}:
        (folder / ".lock").unlink(missing_ok=True)
        folder.rmdir()


def _remove_all(folder: Path) -> None:
    for pattern in ("step-*.json", "step-*.safetensors", "*.partial", ".tmp*"):  # records first: without them tensors are nothing
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


class _DamagedError(Exception):
    """A checkpoint that is not what was written."""


def save_refused_batch(folder: Path, step: int, batch: Tensor) -> Path:
    """Keep the batch whose loss or gradient was not finite, for a look at it."""
    path = folder / f"refused-batch-{step}.safetensors"
    with artefact.replacing(path) as partial:
        save_tensors({"batch": batch}, partial)
    return path


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _difference(theirs: Any, ours: Any, where: str = "") -> str:
    """The first few values in which two identities differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        parts = [_difference(theirs.get(key), ours.get(key), f"{where}.{key}".strip(".")) for key in sorted({*theirs, *ours})]
        return ", ".join([part for part in parts if part][:5])
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        parts = [_difference(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(theirs, ours, strict=True))]
        return ", ".join([part for part in parts if part][:5])
    return "" if theirs == ours else f"{where} was {theirs!r} and is {ours!r}"
