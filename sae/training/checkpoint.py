"""Checkpoints: all that the next steps depend on, written so that a kill at any instant leaves a whole one to go on from.

One is two files: `step-N.safetensors` (no pickle) and, written after it, `step-N.json` with its sha256, the numbers, who it
belongs to, and a digest of its own content. Both are written aside, synced and renamed. The last two are kept: a damaged one
falls back to the one before, and says so. Those of another run that lie in the same folder are neither read nor removed.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from sae import artefact
from sae.errors import ConfigError, disk_told, raise_if_of_disk
from sae.paths import given
from sae.provenance import sha256_file
from sae.tensors import save_tensors

KEPT = 2
SCHEMA = 1
MARK = ".sae-checkpoints"
"""The file that says that a folder is ours to keep checkpoints in; who trains there holds it as a lock."""
DRAFT = ".sae-draft"
"""The folder within, of what is being written."""
SUFFIXES = (".json", ".safetensors")
"""In the order in which the two files of a checkpoint are removed."""
NAME = re.compile(r"step-\d{10,}\.(json|safetensors)(\.partial)?")


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
    read. `deciding` gives the part of an identity that decides the result, by which two are compared.

    The folder carries a mark of ours, and in it nothing is removed but files of our own names: it may hold anything else."""

    def __init__(
        self,
        folder: str | Path,
        identity: dict[str, Any],
        deciding: Callable[[dict[str, Any]], dict[str, Any]] = lambda identity: identity,
    ):
        self.folder = given(folder)
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._deciding = deciding
        self._own: dict[int, bool] = {}
        """Whether a step's checkpoint is one of this run."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training in the same folder. Raises `LockedError`, `ConfigError` as `save` does."""
        _mark(self.folder)
        with artefact.locked(self.folder / MARK, f"the checkpoints in {self.folder} are being trained with"):
            yield

    def save(self, step: int, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Write one, then remove those of this run before the last two.

        `step` is its number, or the next that is free: its two files are never written over, as a kill between them would cost
        both states. Raises `DiskError` where the disk is full; older ones stay then. Raises `ConfigError` where the folder holds
        files of these names that no checkpoints of ours are."""
        _mark(self.folder)
        step = max([step, *(there + 1 for there in self._steps_of_this_run()[:1])])
        while any((self.folder / _name(step, suffix)).exists() for suffix in SUFFIXES):
            step += 1
        tensors_name, record_name = (_name(step, suffix) for suffix in (".safetensors", ".json"))
        with _written(self.folder, tensors_name) as draft:
            save_tensors(tensors, draft)
            digest = sha256_file(draft)
        record = {"schema": SCHEMA, "step": step, "sha256": digest, "identity": self.identity, "numbers": numbers}
        with _written(self.folder, record_name) as draft:
            draft.write_text(json.dumps({**record, "digest": _digest(record)}) + "\n", encoding="utf-8")
        self._own[step] = True
        for old in self._steps_of_this_run()[KEPT:]:
            self._remove(old)

    def latest(self, *, leave_foreign: bool = False) -> Checkpoint | None:
        """The newest whole one of this run; None where there is none. A damaged one is passed over, told on stderr, and removed.

        Where there are those of another run alone, raises `ConfigError`; with `leave_foreign` says so and leaves them."""
        self._sweep()
        foreign: list[str] = []
        for step in self._steps():
            try:
                record = _record(self.folder / _name(step, ".json"))
                difference = self._differs(record)
                self._own[step] = not difference
                if not difference:
                    return self._read(step, record)
                foreign.append(difference)
            except _DamagedError as error:
                name = f"{self.folder.name}/step-{step:010d}"
                print(f"checkpoint {name} is damaged ({error}): going on from the one before, if there is one", file=sys.stderr)
                self._remove(step)
        if foreign:
            told = f"the checkpoints in {self.folder} are of another run: {foreign[0]}"
            if not leave_foreign:
                raise ConfigError(f"{told}; go on with what they were made with, or give another folder to start afresh")
            print(f"{told}; starting afresh, and they stay there until this run is done", file=sys.stderr)
        return None

    def _differs(self, record: dict[str, Any]) -> str:
        """In what the run of a record is another than this one; empty where it is this one."""
        theirs, ours = (json.loads(json.dumps(self._deciding(one))) for one in (record["identity"], self.identity))
        return _difference(theirs, ours)

    def _sweep(self) -> None:
        """Remove what a kill left of checkpoints: files begun, and tensors without their record."""
        if not (self.folder / MARK).is_file():
            return
        _remove_draft(self.folder)
        for left in _ours(self.folder):
            if left.suffix == ".partial" or (left.suffix == ".safetensors" and not left.with_suffix(".json").exists()):
                left.unlink(missing_ok=True)

    def _steps(self) -> list[int]:
        """Steps of the records there, newest first."""
        records = [path for path in _ours(self.folder) if path.suffix == ".json"]
        return sorted((int(path.stem.removeprefix("step-")) for path in records), reverse=True)

    def _steps_of_this_run(self) -> list[int]:
        """As `_steps`; of a record that cannot be read nobody knows, and it counts as ours."""
        steps = self._steps()
        for step in steps:
            if step not in self._own:
                try:
                    self._own[step] = not self._differs(_record(self.folder / _name(step, ".json")))
                except _DamagedError:
                    self._own[step] = True
        return [step for step in steps if self._own[step]]

    def _remove(self, step: int) -> None:
        """The record first: without it the tensors are nothing. Only where the mark says that they are ours."""
        if (self.folder / MARK).is_file():
            _remove(self.folder / _name(step, suffix) for suffix in SUFFIXES)

    def _read(self, step: int, record: dict[str, Any]) -> Checkpoint:
        path = self.folder / _name(step, ".safetensors")
        try:
            data = path.read_bytes()
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
    """Remove all checkpoints in `folder`, of whatever run, and the folder if nothing else is in it."""
    if not (folder / MARK).is_file():
        return
    _remove(sorted(_ours(folder), key=lambda path: SUFFIXES.index(path.suffix) if path.suffix in SUFFIXES else len(SUFFIXES)))
    _remove_draft(folder)
    if {path.name for path in folder.iterdir()} == {MARK}:
        (folder / MARK).unlink()
        folder.rmdir()


def save_refused_batch(folder: Path, step: int, batch: Tensor) -> Path:
    """Keep the batch whose loss or gradient was not finite, for a look at it."""
    name = f"refused-batch-{step}.safetensors"
    with _written(folder, name) as draft:
        save_tensors({"batch": batch}, draft)
    return folder / name


def _name(step: int, suffix: str) -> str:
    return f"step-{step:010d}{suffix}"


def _ours(folder: Path) -> list[Path]:
    """Files of the names that checkpoints have, or had while an older version wrote them."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.is_file()]


def _mark(folder: Path) -> None:
    """Make the folder, if it is missing, and let it carry the mark. Raises `ConfigError` where that cannot be, or where files of
    our names are in it already that are not ours."""
    with disk_told(f"making {folder}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(f"checkpoints '{folder}' cannot be a folder: {error}") from None
    if (folder / MARK).is_file():
        return
    there = _ours(folder)
    if there and not any(_is_record(path) for path in there):
        raise ConfigError(
            f"checkpoints '{folder}' holds {there[0].name}, which this package has not written; give a folder of its own"
        )
    (folder / MARK).touch()


def _is_record(path: Path) -> bool:
    """Whether a file is the record of a checkpoint (of an older version, which made no mark)."""
    try:
        return path.suffix == ".json" and "identity" in _record(path)
    except _DamagedError:
        return False


def _record(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        stated = record.pop("digest")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise_if_of_disk(error, f"reading {path}")
        raise _DamagedError(f"its record cannot be read: {error}") from None
    if stated != _digest(record):
        raise _DamagedError("its record is not what was written")
    return record


@contextmanager
def _written(folder: Path, name: str) -> Iterator[Path]:
    """Write a file of `folder`, all or nothing. It is begun in a folder of ours within, as packages put files of their own names
    beside the one that they write: what a kill leaves can then be told from what others have put there."""
    draft = folder / DRAFT
    with disk_told(f"writing {folder / name}"):
        draft.mkdir(exist_ok=True)
        try:
            yield draft / name
            artefact.sync(draft / name)
            os.replace(draft / name, folder / name)
            artefact.sync(folder)
        finally:
            _remove_draft(folder)


def _remove_draft(folder: Path) -> None:
    draft = folder / DRAFT
    if draft.is_dir():
        _remove(draft.iterdir())
        draft.rmdir()


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_file():
            path.unlink(missing_ok=True)


class _DamagedError(Exception):
    """A checkpoint that is not what was written."""


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
