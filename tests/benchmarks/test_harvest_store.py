"""What a repeat of the harvest's benchmark is: one whole store of the rows and tokens that the table counts."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import harvest_store
from benchmarks.harvest_forward import Shape, build, modes
from benchmarks.harvest_store import Contestant, measure, render, to_store
from sae.harvest import harvest
from sae.storage.activations import ActivationStore

SMALL = {"n_layers": 1, "d_model": 16, "d_mlp": 32, "n_heads": 2, "d_head": 8, "n_ctx": 12, "d_vocab": 50}


def test_a_step_is_a_whole_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape({**SMALL, "act_fn": "relu", "normalization_type": "LN"}, 3, 12)
    made = to_store(build(shape)[0], shape, 5, tmp_path, 100)
    assert (made.tokens, made.rows) == (240, 100)
    assert made.run(2)["steps"] == 2
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["tokens-5"]
    sizes = []

    def opened(*given: Any) -> None:
        assert harvest(*given)
        store = ActivationStore.open(tmp_path / "store")
        sizes.append((len(store), store.run.facts["n_contexts"]))

    monkeypatch.setattr(harvest_store, "harvest", opened)
    made.run(2)
    assert sizes == [(100, 20)] * 2


def test_the_table_compares_rows_with_the_row_above() -> None:
    def of(seconds: float) -> dict[str, float]:
        return {"steps": 1, "wall_s": seconds, "cpu_s": seconds, "others_s": 0.0}

    found = [
        Contestant("written by hand", lambda n: of(1.0), 4000, 0),
        Contestant("harvest to the store", lambda n: of(0.5), 1800, 100),
        Contestant("SAELens, next()", lambda n: of(2.0), 4000, 100),
    ]
    given = type("given", (), {"seconds": 0.1, "rounds": 2, "attempts": 1})
    (mode,) = modes(["cpu"])
    lines = [line.replace(" ", "").split("|") for line in render(mode, measure(mode, found, given)).splitlines()[4:]]
    assert [line[2:7] for line in lines] == [
        ["4.0k", "0%", "", "1.00", ""],
        ["3.6k", "0%", "0.2k", "0.90", ""],
        ["2.0k", "0%", "0.1k", "0.50", "4.00"],
    ]
