"""Errors written for the reader: what was asked, with which values, what to do.

Each class carries the exit code that a stage or the `sae` command ends with (sysexits.h), so that a scheduler can
tell a full disk (retry after cleaning) from a wrong parameter (do not retry).
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class SaeError(Exception):
    """Something that the user can mend. The message is one sentence of fact and one of advice."""

    exit_code = 1


class ConfigError(SaeError, ValueError):
    """A parameter is unknown, of the wrong type, or impossible beside the others."""

    exit_code = 78


class CorpusError(SaeError, ValueError):
    """The text is empty, not UTF-8, or too small for what is asked of it."""

    exit_code = 65


class StoreError(SaeError, OSError):
    """An artefact on disk is missing, unfinished, foreign, or damaged."""

    exit_code = 65


class DiskError(SaeError, OSError):
    """The disk is full or will be, fails, or refuses: what the system says of input and output, and not of what a file holds."""

    exit_code = 74


class LockedError(SaeError, OSError):
    """Another process is writing the same artefact."""

    exit_code = 75


class UnavailableError(SaeError, OSError):
    """A hub or service cannot be reached, and no local copy is there."""

    exit_code = 69


class MissingExtraError(SaeError, ImportError):
    """A package is not installed that only a part of the project needs."""

    exit_code = 69


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a failed import into an error that names the extra that brings the package.

    Used as `with needs("pipeline"): import datasets`. Raises `MissingExtraError`."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "sae":
            raise  # a module of our own: our mistake, not a package that is to be installed
        raise MissingExtraError(
            f"this needs the package '{error.name.split('.')[0]}', which is not installed; "
            f"run: pip install 'sae-pipeline[{extra}]'"
        ) from None


class BudgetError(SaeError):
    """What a paid service may be asked for is spent."""

    exit_code = 75


class NumericsError(SaeError, ArithmeticError):
    """NaN or infinity where a number must be."""

    exit_code = 70


class DivergenceError(NumericsError):
    """Of the dictionaries trained together some have failed; the others were trained to their ends."""

    def __init__(self, message: str, trained: Sequence[Any]):
        super().__init__(message)
        self.trained = trained
        """`sae.training.fit.Trained` of each config, None in the place of each that failed."""


def in_one_line(error: BaseException) -> str:
    """What an error says, and what was noted to it on its way."""
    return "; ".join([str(error), *getattr(error, "__notes__", ())])


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ADVICE = {
    errno.EIO: "the disk fails: see the system's log, and run again, or elsewhere",
    errno.EROFS: "that file system can only be read: choose a folder that can be written to",
    errno.EACCES: "this user may not: change the permissions, or choose another folder",
    errno.EPERM: "this user may not: change the permissions, or choose another folder",
    errno.ENAMETOOLONG: "a name is too long for this file system: choose a shorter one, or a folder less deep",
    errno.EMFILE: "too many files are open: raise `ulimit -n`",
    errno.ENFILE: "the whole system has too many files open",
    errno.ENOLCK: "this file system has no locks: choose a folder on another",
    errno.ESTALE: "the network's file system has forgotten the file: run again",
    errno.EXDEV: "a link leads to a whole disk: let it lead to a folder on that disk",
    errno.EBUSY: "a link leads to a whole disk: let it lead to a folder on that disk",
    errno.ELOOP: "links lead round in a circle: mend them",
}
"""What to do where the system refuses."""
_SAY_NOTHING_OF_CONTENT = {*FULL, *ADVICE}
_NO_FILES = (ConnectionError, TimeoutError)


def disk_error(error: OSError, doing: str) -> DiskError:
    """The system's `error` as ours: what was being done (such as "writing data/A"), what the system says, and what to do."""
    if error.errno in FULL:
        return DiskError(f"no space left while {doing}; free some and run again: {error}")
    advice = ADVICE.get(error.errno or 0, "see to it, and run again")
    return DiskError(f"input or output failed while {doing}: {error}; {advice}")


@contextmanager
def disk_told(doing: str) -> Iterator[None]:
    """Within it what the system says of input and output is a `DiskError`; `doing` is what its message says was being done."""
    try:
        yield
    except OSError as error:
        if isinstance(error, (SaeError, *_NO_FILES)):
            raise
        raise disk_error(error, doing) from error


def raise_if_of_disk(error: BaseException, doing: str) -> None:
    """Raises `DiskError` where `error` is the system's, and says nothing of what the file holds: for readers that take any
    other error for damage."""
    if isinstance(error, OSError) and not isinstance(error, SaeError) and error.errno in _SAY_NOTHING_OF_CONTENT:
        raise disk_error(error, doing) from error
