"""Finding and loading what a run left on disk: `sae.load("A/1")`, and the artefacts beside a dictionary."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sae import artefact
from sae.dictionary.base import Dictionary
from sae.dictionary.disk import dictionary_path, read_dictionary, write_dictionary
from sae.errors import StoreError
from sae.features.feature import Feature
from sae.features.table import FeatureTable
from sae.provenance import Run


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a dictionary lies, and what was made from it or for it. The paths need not exist."""

    dictionary: Path

    @property
    def features(self) -> Path:
        return self.dictionary.parent / "features"

    @property
    def browser(self) -> Path:
        return self.dictionary.parent / "browser"

    @property
    def transformer(self) -> Path:
        return self.dictionary.parent.parent / "transformer"

    @property
    def tokens(self) -> Path:
        return self.dictionary.parent.parent.parent / "tokens"

    @property
    def reports(self) -> Path:
        return self.dictionary.parent.parent.parent.parent / "reports"


def locate(name: str | Path, root: str | Path = "data") -> Place:
    """The dictionary named as in the paper (`A/1` under `root`), or by the path of its folder. Raises `StoreError`."""
    return Place(dictionary=dictionary_path(name, root).resolve())


def load(name: str | Path, root: str | Path = "data") -> Dictionary:
    """A dictionary by its run's name under `root`, or by the path of its folder; `.run` says where it came from.

    `.feature(index)` looks into the FeatureTable beside it, which is opened when first asked.
    Raises `StoreError` where there is none, or it is unfinished or damaged.
    """
    place = locate(name, root)
    dictionary = read_dictionary(place.dictionary)
    if place.features.is_dir():
        table = cache(lambda: open_table(place))

        def describe(index: int) -> Feature:
            return table().feature(index)

        dictionary.describe = describe
    return dictionary


def save(dictionary: Dictionary, path: str | Path) -> None:
    """Write a dictionary to the folder `path`, all or nothing; `load(path)` reads it back, its `run` too. What was there is
    replaced.

    Raises `DiskError` where the disk is full, `LockedError` where another process writes there."""
    with artefact.writing(path, dictionary.run or Run(kind="dictionary")) as draft:
        write_dictionary(dictionary, draft.path)


def open_table(place: Place) -> FeatureTable:
    """The FeatureTable beside a dictionary. Raises `StoreError` where it is missing, or was made from another one."""
    table = FeatureTable.open(place.features)
    if artefact.digest(place.dictionary) not in table.run.parents.values():
        raise StoreError(
            f"{place.features} was made from another dictionary than the one now in {place.dictionary}; run: dvc repro features"
        )
    return table
