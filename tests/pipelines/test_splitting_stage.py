"""Stage `splitting` and `sae tree` over toys: what is written with the trees of what the proxies found."""

import csv
import json
import sys
import types

import pytest
from typer.testing import CliRunner

from pipelines import splitting
from pipelines.common import Stage
from sae import artefact
from sae.cli.main import app
from sae.dictionary.disk import write_dictionary
from sae.errors import StoreError
from sae.library import open_several
from sae.provenance import Run
from sae.reports import write_figures
from tests.features.toy import random_dictionary
from tests.support.stores import make_tokens
from tests.support.toy_source import ToySource

SECTION = {"dictionaries": ["A/0", "A/1", "A/2"], "n_tokens": 320, "min_active": 1, "n_trees": 2}
PARAMS = {"run": {"device": "cpu"}, "splitting": SECTION}


@pytest.fixture
def project(tmp_path, monkeypatch):
    door = types.ModuleType("sae.source.transformer")
    door.load_source = lambda path, device: ToySource()
    monkeypatch.setitem(sys.modules, "sae.source.transformer", door)
    monkeypatch.chdir(tmp_path)
    make_tokens(tmp_path / "data/tokens")
    for letter in "AB":
        with artefact.writing(tmp_path / f"data/{letter}/transformer", Run(kind="transformer")):
            pass
    for k, name in enumerate(("A/0", "A/1", "A/2", "B/1")):
        with artefact.writing(tmp_path / f"data/{name}/dictionary", Run(kind="dictionary", id=name)) as draft:
            write_dictionary(random_dictionary(n_features=8 + 6 * k, seed=k), draft.path)
    return tmp_path


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_stage_writes_figures_tables_trees_and_pictures(project, capsys):
    best = {"best_feature": {"id": "A/0/4"}}
    hypotheses = {"base64": best, "base64-competing": best, "dna": {"best_feature": None}}
    with artefact.writing(project / "reports/A-0/proxies", Run(kind="proxies")) as draft:
        write_figures(draft.path, "proxies", {"hypotheses": hypotheses})
    splitting.main(Stage("splitting", PARAMS))
    words = json.loads((project / "reports/splitting/splitting.json").read_text())
    assert [(row["first"], row["second"]) for row in words["sizes"]] == [("A/0", "A/1"), ("A/1", "A/2")]
    assert words["trees"].keys() == {"base64"}
    assert words["trees"]["base64"]["id"] == "A/0/4"
    printed = capsys.readouterr().out
    assert f"base64: A/0/4 has {words['trees']['base64']['n_below']} below it" in printed
    for row in words["sizes"]:
        name = f"{row['first']}+{row['second']}.csv".replace("/", "-")
        with open(project / "reports/splitting" / name, encoding="utf-8") as file:
            edges = list(csv.DictReader(file))
        assert len(edges) == row["n_edges"]
        with_parent = {edge["child"] for edge in edges if edge["is_best_parent"] == "1"}
        assert len(with_parent) == round(row["share_with_parent"] * row["n_children"])
        assert sum(row["children"].values()) == row["n_parents"]
    for name in ("children.png", "map.png", "trees.png"):
        assert (project / "reports/splitting" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_twice_it_writes_the_same(project):
    splitting.main(Stage("splitting", PARAMS))
    first = contents(project / "reports")
    splitting.main(Stage("splitting", PARAMS))
    assert contents(project / "reports") == first


def test_without_dictionaries_there_is_an_empty_report(project):
    splitting.main(Stage("splitting", PARAMS | {"splitting": {}}))
    assert json.loads((project / "reports/splitting/splitting.json").read_text()) == {"sizes": [], "trees": {}}


def test_the_command_prints_the_tree(project):
    done = CliRunner().invoke(app, ["tree", "A/0/4", "A/1", "A/2", "--tokens", "320"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("A/0/4  '<")
    assert "\n    0." in done.output
    assert CliRunner().invoke(app, ["tree", "A/0", "A/1"]).exit_code != 0


def test_dictionaries_of_two_transformers_are_refused(project):
    with pytest.raises(StoreError, match="A/1, B/1 are of 2 transformers"):
        open_several(["A/1", "B/1"], device="cpu")
