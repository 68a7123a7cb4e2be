"""Stage `claims` and the command `sae study` over toys."""

import json

import pytest
from typer.testing import CliRunner

from pipelines import claims
from pipelines.common import Stage
from sae import artefact
from sae.cli.main import app

SECTION = {
    "hypotheses": [],
    "own": {"teens": {"pattern": "<1[0-4]>"}, "ones": {"strings": ["<1>", "<2>"]}},
    "other": "B/1",
    "n_tokens": 160,
    "n_choice_tokens": 160,
    "n_controls": 2,
    "n_continuations": 2,
    "continued_tokens": 3,
    "n_bootstrap": 5,
}
PARAMS = {"run": {"device": "cpu"}, "claims": SECTION}


def test_the_stage_writes_figures_words_and_a_plot_twice_the_same(two_transformers, capsys):
    def written():
        claims.main(Stage("claims", PARAMS))
        folder = two_transformers / "reports"
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first = written()
    assert {"claims/claims.json", "claims/told.txt", "claims/claims.png", "claims/run.json"} <= first.keys()
    found = json.loads(first["claims/claims.json"])
    assert found.keys() == {"teens", "ones"}
    for each in found.values():
        assert set(each["claims"]) == {"specific", "sensitive", "causal", "not a neuron", "universal"}
        assert each["claims"]["universal"]["figures"]
        assert each["feature"].startswith("A/1/")
    assert "universal: " in capsys.readouterr().out
    run = artefact.read_run(two_transformers / "reports/claims", "claims")
    assert {"data/tokens", "data/A/1/dictionary", "data/B/1/dictionary", "data/B/transformer"} <= run.parents.keys()
    assert written() == first


def study(*arguments):
    return CliRunner().invoke(app, ["study", *arguments])


def test_the_command_prints_the_claims(two_transformers):
    done = study("teens", "--pattern", "<1[0-4]>", "--tokens", "160")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("teens: A/1/")
    assert "universal: not tested" in done.output
    assert "--other B/1" in done.output
    assert "universal: " in study("teens", "--string", "<11>", "--other", "B/1", "--tokens", "160").output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["klingon"], "no hypothesis 'klingon'; there are arabic"),
        (["arabic", "--pattern", "x"], "is a hypothesis of the library"),
        (["x", "--pattern", "x", "--string", "y"], "must have one of pattern"),
        (["x", "--pattern", "nowhere"], "no unit varies"),
        (["x", "--pattern", "<1.>", "--dictionary", "A/9"], "A/9"),
    ],
)
def test_what_is_wrong_is_one_line(two_transformers, arguments, why):
    done = study(*arguments)
    assert done.exit_code != 0
    assert why in done.output
    assert done.output.count("\n") <= 3
