"""Who may write a store: one process alone, or one for each share of a job."""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sae import artefact
from sae.storage.share import Share


@contextmanager
def claimed(target: Path, share: Share | None) -> Iterator[None]:
    """Hold the store `target`, whole or a share of it. Raises `LockedError` where another holds it, or the same share, or shares
    of another number (two of those would do the same tasks)."""
    what, lock = f"{target} is being written", artefact.lock_of(target)
    with artefact.locked(lock, what, shared=share is not None):
        if share is None:
            yield
            return
        own = lock.with_name(f"{lock.name}.{share.first}-{share.n}")
        with artefact.locked(own, f"shard {share.first}/{share.n} of {what}"):
            for other in _shares(target):
                n = int(other.name.rpartition("-")[2])
                if n != share.n:
                    with artefact.locked(other, f"{what} in {n} shares, not {share.n},"):
                        pass
            yield


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Within it no other that has claimed a share of `target` is; waits for that."""
    with artefact.locked(artefact.lock_of(target).with_name(f".{target.name}.lock.plan"), f"{target} is begun", wait=True):
        yield


def remove_shares(target: Path) -> None:
    """The files that shares have locked. Only for who holds the whole: then nobody holds one."""
    for path in (*_shares(target), artefact.lock_of(target).with_name(f".{target.name}.lock.plan")):
        path.unlink(missing_ok=True)


def _shares(target: Path) -> list[Path]:
    return [Path(path) for path in glob.glob(glob.escape(str(artefact.lock_of(target))) + ".*-*")]
