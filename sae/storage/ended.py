"""What a writer that was killed after its commit left beside the store: it says so itself, and is swept away.

The work in `<store>.partial` holds, from just before the store takes its place, the file `commit` with the digest of the store's
record. Where that is the digest of the record that stands, the work is done, however much of it is left."""

import dataclasses
import shutil
from pathlib import Path

from sae import artefact, foreign
from sae.errors import LockedError, StoreError
from sae.provenance import Run
from sae.storage import claim

PLAN, COMMIT = "plan.json", "commit"


def stands(target: Path, run: Run) -> bool:
    """Whether `target` is the store that `run` says is to be written."""
    try:
        found = artefact.read_run(target, run.kind)
    except StoreError:
        return False
    same = (dataclasses.replace(one, facts={}, files={}, processor={}).to_json() for one in (found, run))
    return len(set(same)) == 1


def is_left_over(target: Path) -> bool:
    """Whether what lies beside the store `target`, or lay there, is of no more use: the store that it became stands."""
    try:
        stated = (artefact.partial_of(target) / COMMIT).read_text(encoding="ascii", errors="replace")
        return stated == artefact.digest(target)
    except (FileNotFoundError, NotADirectoryError):
        return False


def sweep(target: Path) -> None:
    """For who holds the store `target`: remove the work that became it. What says so goes last."""
    partial = artefact.partial_of(target)
    for path in partial.iterdir():
        if path.name == COMMIT:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    claim.remove_shares(target)
    shutil.rmtree(partial)


def abandon(target: Path) -> None:
    """Remove unfinished work on the store `target`, in whose place something else is to come.
    Raises `LockedError` where a process is at it."""
    target = artefact.real(target)
    partial = artefact.partial_of(target)
    if not (partial / PLAN).is_file():
        return
    with claim.claimed(target, None):
        foreign.remove(partial)
        claim.remove_shares(target)


def sweep_left_over(target: Path) -> None:
    """The same for who does not hold it, where there is something, and nobody is at it."""
    target = artefact.real(target)
    if not is_left_over(target):
        return
    try:
        with claim.claimed(target, None):
            if is_left_over(target):
                sweep(target)
    except LockedError:
        return
