"""Artefacts on disk: a directory that is either whole and committed, or not there.

A writer fills `<name>.partial`, and only when everything is in it are its files digested, synced, listed in `run.json`
(written last) and the directory renamed to `<name>`. So a reader never sees half of one: whoever kills the writer, at
whatever instant, leaves at most a `.partial`, which the next writer sweeps. One that stands there already changes places with
the new one in a single step; where the system cannot do that it is put aside for a moment, and whoever is killed in that moment
leaves it to the next that opens it, who puts it back. A lock beside the directory keeps two writers apart (DVC's own lock does
not: a killed `dvc` leaves its stage running).

Where `<name>` is a link, all this happens where it leads: to a larger disk, say. The link stays. What lies there and is no
artefact of that kind stays too (`foreign`).
"""

import dataclasses
import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sae import foreign
from sae.errors import LockedError, StoreError, disk_told
from sae.exchange import aside, take_place
from sae.foreign import RUN_FILE
from sae.provenance import SCHEMA, Run, sha256_file
from sae.shown import printable_lines

TOLD = "told.txt"
"""What a study says in words, in its folder."""

PATIENCE = 10.0
"""Seconds that a reader waits for a writer who is between two renames."""


class Draft:
    """An artefact being written: put files under `path`, where nothing is yet but a mark; set `run` (again) before the block
    ends to say more of it."""

    def __init__(self, path: Path, run: Run):
        self.path = path
        self.run = run

    def tell(self, words: str) -> None:
        """Print what was found, and keep it in the artefact (`TOLD`) for its report. Text of a corpus in it is escaped."""
        told = printable_lines(words)
        write_text(self.path / TOLD, told + "\n")
        print(told)


@contextmanager
def writing(target: str | Path, run: Run, *, over: Collection[str] = (), advice: str = foreign.MOVE_IT) -> Iterator[Draft]:
    """Write the artefact `target`, all or nothing.

    Yields a `Draft`. When the block ends without an error, its content replaces `target`; when it raises, nothing is left and an
    old `target` stays.
    Raises `StoreError`, with `advice`, where anything else than an artefact of that kind, or of the kinds `over`, lies there;
    `LockedError` if another process writes the same target, `DiskError` if the disk fills up, fails or refuses.
    """
    with disk_told(f"writing {target}"):
        target, kinds = real(target), (run.kind, *over)
        draft = Draft(partial_of(target), run)
        refuse_foreign(target, kinds, advice)
        make_parent(target)
        with locked(lock_of(target), f"{target} is being written"):
            _remove(draft.path)
            sweep_aside(target)
            try:
                foreign.mark(draft.path)
                yield draft
                _commit(draft, target, kinds, advice)
            finally:
                _remove(draft.path)


def refuse_foreign(target: Path, kinds: Collection[str], advice: str = foreign.MOVE_IT) -> None:
    """Raises `StoreError` unless an artefact of the first of `kinds` may take the place `target`, and those beside it where it is
    written first: nothing lies there but artefacts of `kinds`, whole, damaged or half-written (`foreign.refuse`)."""
    foreign.refuse(target, kinds, advice)
    for draft in (partial_of(target), aside(target)):
        foreign.refuse_draft(draft, next(iter(kinds)), advice)


def real(target: str | Path) -> Path:
    """Where the artefact `target` lies: where it leads, if it is a link. Raises `StoreError` for one that leads nowhere."""
    target = Path(target)
    if not target.is_symlink():
        return target
    there = Path(os.path.realpath(target))
    if not there.parent.is_dir():
        raise StoreError(f"{target} is a link to {there}, but {there.parent} is not there; mount its disk, or remove the link")
    return there


def partial_of(target: Path) -> Path:
    """Where an artefact lies while it is written."""
    return target.with_name(target.name + ".partial")


def lock_of(target: Path) -> Path:
    """What the writer of an artefact holds."""
    return target.with_name(f".{target.name}.lock")


def read_run(path: str | Path, kind: str, *, made_by: str = "dvc repro") -> Run:
    """The committed artefact's `Run`; `made_by` is the command that an error advises.

    Raises `StoreError` where `path` is missing, unfinished, of another kind, or of a newer schema; `DiskError` where the system
    does not let it be read.
    """
    path = Path(path)
    with disk_told(f"reading {path}"):
        if not path.is_dir():
            _come_back(path)
        if not path.is_dir():
            raise StoreError(f"no {kind} at {path}; make it with: {made_by}")
        try:
            content = (path / RUN_FILE).read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            raise StoreError(f"{path} has no {RUN_FILE}: an unfinished or foreign {kind}; make it again: {made_by}") from None
    return parse_run(content, path, kind, made_by=made_by)


def parse_run(content: bytes, path: str | Path, kind: str, *, made_by: str = "dvc repro") -> Run:
    """The `Run` that the run.json of the artefact `path` holds. Raises `StoreError` as `read_run` does."""
    try:
        run = Run.from_json(content.decode())
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path}/{RUN_FILE} is damaged ({error}); make it again: {made_by}") from None
    if run.schema > SCHEMA:
        raise StoreError(f"{path} has schema {run.schema}, this version reads up to {SCHEMA}: update the package")
    if run.kind != kind:
        raise StoreError(f"{path} is a {run.kind}, not a {kind}; make it with: {made_by}")
    return run


def verify(path: str | Path, run: Run, only: tuple[str, ...] = ()) -> None:
    """Compare the files (all, or `only` those named) with their digests in `run`; `StoreError` names the first that differs."""
    for name in only or run.files:
        expected = run.files.get(name)
        if expected is None:
            continue
        file = Path(path) / name
        with disk_told(f"reading {file}"):
            if not file.is_file():
                raise StoreError(f"{file} is missing from its {run.kind}; make it again")
            actual = sha256_file(file)
        if actual != expected:
            raise StoreError(f"{file} is damaged: sha256 {actual}, committed as {expected}; make the {run.kind} again")


def digest(path: str | Path) -> str:
    """sha256 of the artefact's run.json, which names every other file's: what a child records as its parent."""
    return sha256_file(Path(path) / RUN_FILE)


def write_text(path: Path, text: str) -> None:
    """Replace a single file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """Write a single file, all or nothing: yields where to write it; at the end it takes `path`'s place.

    It is synced before that: a power cut might else leave a file of that name with half of its content. Where that would be
    noticed on reading, save the time.

    Raises `DiskError` if the disk fills up, fails or refuses."""
    partial = partial_of(path)
    with disk_told(f"writing {path}"):
        make_parent(path)
        try:
            yield partial
            if synced:
                sync(partial)
            os.replace(partial, path)
            if synced:
                sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def make_parent(target: Path) -> None:
    """The folder that `target` is to lie in."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StoreError(f"cannot make the folder {target.parent}: a file of that name is in the way; move it") from None


def _commit(draft: Draft, target: Path, kinds: Collection[str], advice: str) -> None:
    digests = {}
    for file in files_below(draft.path):
        if file != draft.path / foreign.MARK:
            digests[file.relative_to(draft.path).as_posix()] = sha256_file(file)
            sync(file)
    put_in_place(draft.path, target, dataclasses.replace(draft.run, files=digests), kinds, advice)


def put_in_place(folder: Path, target: Path, run: Run, kinds: Collection[str], advice: str = foreign.MOVE_IT) -> None:
    """Write `run`, which lists what is in `folder`, beside it, and let the folder take the place of `target`, which may be an
    artefact of `kinds` (`foreign.refuse`, as it may have been made meanwhile)."""
    record = folder / foreign.MARK
    record.write_text(run.to_json(), encoding="utf-8")
    sync(record)
    os.replace(record, folder / RUN_FILE)
    for at, _ in _walk(folder):
        sync(Path(at))  # the names of what it holds
    foreign.refuse(target, kinds, advice)
    old = take_place(folder, target)
    sync(target.parent)
    if old is not None:
        discard(old)


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and its folders, sorted. Raises `OSError` for a folder that cannot be listed, which `Path.rglob`
    leaves out without a word."""
    return sorted(Path(at, name) for at, names in _walk(folder) for name in names)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder with the names of its files."""

    def refuse(error: OSError) -> None:
        raise error

    return ((at, names) for at, _, names in os.walk(folder, onerror=refuse))


def discard(folder: Path) -> None:
    """Remove an artefact. Its record goes first: who is killed while removing leaves nothing that looks like a whole one."""
    foreign.unmake(folder)
    _remove(folder)


def _remove(folder: Path) -> None:
    with suppress(OSError):  # the next writer tries again
        foreign.remove(folder)


def sweep_aside(target: Path) -> None:
    """For who holds the lock: put back what was put aside by a writer who was killed before the new one stood; or remove it."""
    old = aside(target)
    if not target.exists() and (old / RUN_FILE).is_file():
        os.replace(old, target)
    elif old.exists():
        discard(old)


def _come_back(path: Path) -> None:
    """Let a reader find what was put aside, at once or when its writer is through."""
    target = real(path)
    deadline = time.monotonic() + PATIENCE
    while not target.exists() and (aside(target) / RUN_FILE).is_file():
        try:
            with locked(lock_of(target), f"{target} is being written"):
                sweep_aside(target)
        except LockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def sync(path: Path) -> None:
    """What was written to a file or folder is on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, what: str, *, wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Hold the file `path` (made where it is missing, and left) as an advisory lock, which dies with its process; `shared` with
    others that say so too.

    Raises `LockedError`, begun with `what`, where another holds it, unless it shall `wait`."""
    with disk_told(f"locking {path}"):
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closed below, whatever happens
    with file:
        with disk_told(f"locking {path}"):
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise LockedError(f"{what} by process {holder}; wait for it, or end it") from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield
