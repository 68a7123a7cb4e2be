"""Stage `automata` over a toy: what it writes and that its numbers are those of its table."""

import csv
import json
import sys
import types

import numpy as np
import pytest

from sae import artefact
from sae.dictionary.disk import write_dictionary
from sae.provenance import Run
from sae.storage.tokens import write_tokens
from tests.features.toy import random_dictionary
from tests.support.toy_source import ToySource

SECTION = {"n_tokens": 1920, "min_count": 2, "false_discovery": 0.9, "frequency_group": 10, "n_listed": 5}
PARAMS = {"run": {"device": "cpu"}, "automata": SECTION}


def make_sequences(path):
    """A token store in which three tokens of four follow from the one before."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 50, (120, 16))
    for position in range(2, 16):
        follows = rng.random(120) < 0.75
        tokens[follows, position] = tokens[follows, position - 1] * 3 % 49 + 1
    tokens[:, 0] = 0
    document = np.repeat(np.arange(120)[:, None], 16, 1)
    document[:, 0] = -1
    split = (tokens.astype(np.uint16), document.astype(np.int32))
    vocabulary = [f"<{i}>".encode() for i in range(48)] + ["中".encode(), b"$_"]
    with artefact.writing(path, Run(kind="tokens")) as draft:
        write_tokens(draft.path, {"train": split, "heldout": split}, np.zeros(120), ["kind"], vocabulary, 0)


@pytest.fixture
def project(tmp_path, monkeypatch):
    door = types.ModuleType("sae.source.transformer")
    door.load_source = lambda path, device: ToySource()
    monkeypatch.setitem(sys.modules, "sae.source.transformer", door)
    for name in [name for name in sys.modules if name == "pipelines.automata"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    make_sequences(tmp_path / "data/tokens")
    with artefact.writing(tmp_path / "data/A/transformer", Run(kind="transformer")):
        pass
    with artefact.writing(tmp_path / "data/A/1/dictionary", Run(kind="dictionary", id="A/1")) as draft:
        write_dictionary(random_dictionary(), draft.path)
    return tmp_path


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_stage_writes_figures_a_table_and_pictures(project, capsys):
    from pipelines import automata
    from pipelines.common import Stage

    automata.main(Stage("automata", PARAMS))
    words = json.loads((project / "reports/automata/automata.json").read_text())
    with open(project / "reports/automata/edges.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert words["n_edges"] == len(rows) > 0
    assert f"A/1: {len(rows)} edges among 24 features over 1,680 steps (effects: exact)" in capsys.readouterr().out
    loops = [row["first"] for row in rows if row["first"] == row["second"]]
    assert words["n_motifs"]["self_loops"] == len(loops)
    assert [str(motif["features"][0]) for motif in words["motifs"]["self_loops"]] == loops[:5]
    assert min(float(row["observed"]) for row in rows) == pytest.approx(words["least_observed"], rel=1e-5)
    for name in ("control.png", "motifs.png"):
        assert (project / "reports/automata" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_twice_it_writes_the_same(project):
    from pipelines import automata
    from pipelines.common import Stage

    automata.main(Stage("automata", PARAMS))
    first = contents(project / "reports")
    automata.main(Stage("automata", PARAMS))
    assert contents(project / "reports") == first


def test_where_nothing_is_above_chance_the_report_says_none(project):
    from pipelines import automata
    from pipelines.common import Stage

    automata.main(Stage("automata", PARAMS | {"automata": {**SECTION, "false_discovery": 1e-6}}))
    words = json.loads((project / "reports/automata/automata.json").read_text())
    assert (words["n_edges"], words["least_observed"], words["motifs"]["chains"]) == (0, None, [])
    assert (project / "reports/automata/motifs.png").is_file()
