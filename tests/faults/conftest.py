"""The store that is harassed, and what it is when nobody does; and projects in which all stages are done."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from sae.storage.layout import Layout
from sae.storage.tokens import TokenStore
from tests.faults.lives import Watch, life
from tests.faults.rounds import make_rounds
from tests.faults.stages import OUTPUTS, Stages, compiled
from tests.support.stores import make_tokens
from tests.support.toy_harvest import bytes_of, small, toy_harvest

N_ROWS, N_TASKS = 120, 4
"""In four shards: few enough for a thousand lives, and still several of everything."""


class Subject(NamedTuple):
    folder: Path
    tokens: TokenStore
    undisturbed: dict[str, bytes]

    @property
    def target(self) -> Path:
        return self.folder / "acts"

    def harvest(self, **given) -> bool:
        return toy_harvest(self.target, self.tokens, n_rows=N_ROWS, **given)

    def watch(self) -> Watch:
        return Watch(self.target, Layout(N_ROWS, 16), N_TASKS, self.undisturbed)


@pytest.fixture(params=["pieces", "joined"])
def ways(request):
    """A shuffle in two passes, or in three."""
    return request.param


@pytest.fixture
def subject(tmp_path, monkeypatch, ways):
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    small(monkeypatch, joined=ways == "joined", n_rows=N_ROWS)
    tokens = make_tokens(tmp_path / "tokens")
    whole = tmp_path / "whole"
    assert life(lambda: toy_harvest(whole, tokens, n_rows=N_ROWS), told=tmp_path / "error.txt") == 0
    yield Subject(tmp_path, tokens, bytes_of(whole))
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    library = compiled(tmp_path_factory.mktemp("shim"))
    if library is None:
        pytest.skip("no C compiler (cc) on Linux here: file calls cannot be made to fail")
    return library


@pytest.fixture(scope="session")
def every(shim, tmp_path_factory):
    """Rounds over all stages."""
    folder = tmp_path_factory.mktemp("every")
    with Stages(shim, folder) as stages:
        yield make_rounds(stages, OUTPUTS, folder)
