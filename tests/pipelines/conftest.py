"""Two toy transformers with dictionaries, as `make full` leaves them."""

import sys
import types

import pytest

from sae import artefact
from sae.dictionary.disk import write_dictionary
from sae.provenance import Run
from tests.features.toy import random_dictionary
from tests.support.stores import make_tokens
from tests.support.toy_source import ToySource


@pytest.fixture
def two_transformers(tmp_path, monkeypatch):
    door = types.ModuleType("sae.source.transformer")
    door.load_source = lambda path, device: ToySource(seed="AB".index(path.parent.name))
    monkeypatch.setitem(sys.modules, "sae.source.transformer", door)
    monkeypatch.chdir(tmp_path)
    make_tokens(tmp_path / "data/tokens")
    for letter in "AB":
        with artefact.writing(tmp_path / f"data/{letter}/transformer", Run(kind="transformer", parents={"data/tokens": "0"})):
            pass
    for name, width in (("A/1", 24), ("B/1", 20), ("A/sweep/wide", 30)):
        with artefact.writing(tmp_path / f"data/{name}/dictionary", Run(kind="dictionary", id=name)) as draft:
            write_dictionary(random_dictionary(n_features=width, seed=width), draft.path)
    return tmp_path
