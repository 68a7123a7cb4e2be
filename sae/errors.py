"""Errors written for the reader: what was asked, with which values, what to do.

Each class carries the exit code that a stage or the `sae` command ends with (sysexits.h), so that a scheduler can
tell a full disk (retry after cleaning) from a wrong parameter (do not retry).
"""

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
    """The disk is full, or will be."""

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
