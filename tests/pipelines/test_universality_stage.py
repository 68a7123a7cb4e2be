"""Stage `universality` and the command of that name over toys: two transformers, and a dictionary of a sweep."""

import csv
import json

import pytest
from typer.testing import CliRunner

from pipelines import universality
from pipelines.common import Stage
from sae import artefact
from sae.cli.main import app
from sae.errors import StoreError
from sae.library import locate, open_sides
from sae.provenance import Run

SECTION = {"pairs": [["A/1", "B/1"], ["A/1", "A/sweep/wide"]], "n_tokens": 320, "min_active": 1, "n_bootstrap": 20}
PARAMS = {"run": {"device": "cpu"}, "universality": SECTION}


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_stage_writes_medians_tables_and_plots_twice_the_same(two_transformers, capsys):
    universality.main(Stage("universality", PARAMS))
    found = json.loads((two_transformers / "reports/universality/universality.json").read_text())
    assert found.keys() == {"A/1 B/1", "A/1 A/sweep/wide"}
    assert "A/1 with B/1: 24 of 24 features" in capsys.readouterr().out
    assert ("neurons, best" in found["A/1 B/1"]["medians"], "neurons, best" in found["A/1 A/sweep/wide"]["medians"]) == (
        True,
        False,
    )
    with open(two_transformers / "reports/universality/A-1+B-1.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    values = sorted(float(row["correlation"]) for row in rows)
    assert len(rows) == 24
    assert found["A/1 B/1"]["medians"]["features, best"]["median"] == pytest.approx((values[11] + values[12]) / 2, abs=2e-6)
    assert (two_transformers / "reports/universality/A-1+A-sweep-wide.png").is_file()
    run = artefact.read_run(two_transformers / "reports/universality", "universality")
    assert {"data/tokens", "data/A/transformer", "data/A/sweep/wide/dictionary"} < run.parents.keys()
    first = contents(two_transformers / "reports")
    universality.main(Stage("universality", PARAMS))
    assert contents(two_transformers / "reports") == first


def test_without_pairs_there_is_an_empty_report(two_transformers):
    universality.main(Stage("universality", PARAMS | {"universality": {}}))
    assert json.loads((two_transformers / "reports/universality/universality.json").read_text()) == {}


def test_the_command_prints_the_medians(two_transformers):
    done = CliRunner().invoke(app, ["universality", "A/1", "A/1", "--tokens", "320"])
    assert done.exit_code == 0, done.output
    assert "features, best    " in done.output
    assert "1.000  [1.000, 1.000]" in done.output
    assert CliRunner().invoke(app, ["universality", "A/1", "A/7"]).exit_code != 0


def test_sides_share_a_transformer_where_it_is_one(two_transformers):
    one, other = open_sides("A/1", "A/sweep/wide", device="cpu")
    assert one.source is other.source
    assert (one.id, other.id, other.dictionary.n_features) == ("A/1", "A/sweep/wide", 30)
    assert locate("A/sweep/wide").tokens == two_transformers / "data/tokens"
    one, other = open_sides("A/1", "B/1", device="cpu")
    assert one.source is not other.source
    with artefact.writing(two_transformers / "data/B/transformer", Run(kind="transformer", parents={"data/tokens": "1"})):
        pass
    with pytest.raises(StoreError, match="A/1 and B/1 were made from different tokens"):
        open_sides("A/1", "B/1", device="cpu")


def test_figures_are_those_of_the_dictionary_where_a_project_has_several(two_transformers):
    assert locate("B/1").reports == two_transformers / "reports"
    (two_transformers / "reports/B-1").mkdir(parents=True)
    assert (locate("B/1").reports, locate("A/1").reports) == (two_transformers / "reports/B-1", two_transformers / "reports")
