"""Finding and loading what a run left on disk: `sae.load("A/1")`, and the artefacts beside a dictionary."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae import artefact
from sae.device import to_device
from sae.dictionary.base import Dictionary
from sae.dictionary.disk import dictionary_path, read_dictionary, write_dictionary
from sae.errors import ConfigError, StoreError
from sae.features.feature import Feature
from sae.features.side_by_side import Side
from sae.features.table import FeatureTable
from sae.paths import given
from sae.provenance import Run
from sae.reports import REPORTS
from sae.source.site import ActivationSource


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
    def report(self) -> Path:
        return self.dictionary.parent / "report"

    @property
    def transformer(self) -> Path:
        """Beside the dictionary's folder; beside `sweep` for one of a sweep."""
        above = self.dictionary.parent.parent
        return (above.parent if above.name == "sweep" else above) / "transformer"

    @property
    def tokens(self) -> Path:
        return self.transformer.parent.parent / "tokens"

    @property
    def root(self) -> Path:
        """Of the project: what paths in records are relative to."""
        return self.tokens.parent.parent

    @property
    def all_reports(self) -> Path:
        return self.root / REPORTS

    @property
    def reports(self) -> Path:
        """Those of this dictionary alone, where a project has several."""
        own = self.all_reports / f"{self.transformer.parent.name}-{self.dictionary.parent.name}"
        return own if own.is_dir() else self.all_reports


class Lookup:
    """Looks features up in the table beside a dictionary, which is opened when first asked.

    A copy, also in another process, opens it anew."""

    def __init__(self, place: Place):
        self.place = place
        self._table: FeatureTable | None = None

    def __call__(self, index: int) -> Feature:
        if self._table is None:
            self._table = open_table(self.place)
        return self._table.feature(index)

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place, "_table": None}


def locate(name: str | Path, root: str | Path = "data") -> Place:
    """The dictionary named as in the paper (`A/1` under `root`), or by the path of its folder. Raises `StoreError`."""
    return Place(dictionary=dictionary_path(name, root).resolve())


def split_id(id: str, root: str | Path = "data") -> tuple[str, int]:
    """A dictionary's name or path, and the number of one of its features. Raises `ConfigError` for an id that has none, also
    where it ends in a number that is part of the dictionary's name under `root`, as in A/1."""
    name, _, index = id.rstrip("/").rpartition("/")
    if not name or not index.isdecimal() or (is_dictionary(id, root) and not is_dictionary(name, root)):
        whole = id.rstrip("/") if is_dictionary(id, root) else "A/1"
        raise ConfigError(f"'{id}' names no feature; write a dictionary and a number, such as {whole}/3450")
    return name, int(index)


def is_dictionary(name: str, root: str | Path) -> bool:
    """Whether there is one of that name."""
    try:
        dictionary_path(name, root)
    except StoreError:
        return False
    return True


def made_from(tokens: Path, names: Iterable[str]) -> tuple[Path, ...]:
    """What a study of several dictionaries is made from: the token store, each dictionary and its transformer."""
    places = [Place(dictionary=dictionary_path(name)) for name in names]
    return tuple(sorted({tokens, *(path for place in places for path in (place.dictionary, place.transformer))}))


def load(name: str | Path, root: str | Path = "data") -> Dictionary:
    """A dictionary by its run's name under `root`, or by the path of its folder; `.run` says where it came from.

    `.feature(index)` looks into the FeatureTable beside it, which is opened when first asked.
    Raises `StoreError` where there is none, or it is unfinished or damaged.
    """
    place = locate(name, root)
    dictionary = read_dictionary(place.dictionary)
    if place.features.is_dir():
        dictionary.describe = Lookup(place)
    return dictionary


def save(dictionary: Dictionary, path: str | Path) -> None:
    """Write a dictionary to the folder `path`, all or nothing; `load(path)` reads it back, its `run` too.

    The folder is new, empty, or a dictionary, which is replaced; where it is a link, what it leads to is. Raises
    `StoreError` where anything else is in it or the weights hold NaN or infinity, `DiskError` where the disk is full,
    `LockedError` where another process writes there."""
    folder = Path(os.path.realpath(given(path)))
    run = dictionary.run or Run(kind="dictionary")
    with artefact.writing(folder, run, advice="give a new or an empty folder") as draft:
        write_dictionary(dictionary, draft.path)


def open_sides(first: str, second: str, root: str | Path = "data", device: str = "auto") -> tuple[Side, Side]:
    """Two dictionaries named as in the paper, each with its transformer, which they share where it is one.

    Raises `StoreError` where one or its transformer is missing, or they were made from different tokens."""
    from sae.source.transformer import load_source  # transformer_lens takes seconds to import, and `load` needs none

    places = [locate(name, root) for name in (first, second)]
    where = to_device(device)
    sources = {path: load_source(path, where) for path in {place.transformer for place in places}}
    check_same_tokens(sources, f"{first} and {second}")
    one, other = (
        Side(name, sources[place.transformer], read_dictionary(place.dictionary).to(where))
        for name, place in zip((first, second), places, strict=True)
    )
    return one, other


def check_same_tokens(transformers: Iterable[Path], names: str) -> None:
    """Raises `StoreError` where the transformers of the dictionaries `names` were made from different tokens."""
    if len({artefact.read_run(path, "transformer").parents.get("data/tokens") for path in transformers}) > 1:
        raise StoreError(f"the transformers of {names} were made from different tokens, which cannot be compared")


def open_several(
    names: Sequence[str], root: str | Path = "data", device: str = "auto"
) -> tuple[ActivationSource, list[tuple[str, Dictionary]]]:
    """Dictionaries of one transformer, named as in the paper, with it.

    Raises `StoreError` where one is missing, or they are of several transformers."""
    from sae.source.transformer import load_source  # as above

    places = [locate(name, root) for name in names]
    transformers = {place.transformer for place in places}
    if len(transformers) != 1:
        raise StoreError(f"{', '.join(names)} are of {len(transformers)} transformers; features split within one: name its own")
    where = to_device(device)
    dictionaries = [(name, read_dictionary(place.dictionary).to(where)) for name, place in zip(names, places, strict=True)]
    return load_source(transformers.pop(), where), dictionaries


def open_table(place: Place) -> FeatureTable:
    """The FeatureTable beside a dictionary. Raises `StoreError` where it is missing, or was made from another one."""
    table = FeatureTable.open(place.features)
    if artefact.digest(place.dictionary) not in table.run.parents.values():
        raise StoreError(
            f"{place.features} was made from another dictionary than the one now in {place.dictionary}; run: dvc repro features"
        )
    return table
