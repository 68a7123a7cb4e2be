"""Stages `interpret` and `controls`, and the command `sae interpret`, over toys: without a judge, and with one on loopback."""

import csv
import json
import sys
import types

import numpy as np
import pytest
from typer.testing import CliRunner

from pipelines import controls, interpret
from pipelines.common import Stage
from sae import artefact
from sae.cli.main import app
from sae.dictionary.disk import write_dictionary
from sae.errors import StoreError
from sae.provenance import Run
from sae.reports import write_figures
from tests.features.toy import random_dictionary
from tests.interpret.stub import Stub
from tests.support.stores import make_tokens
from tests.support.toy_source import ToySource

SECTION = {"n_tokens": 4000, "beside": ["S/0"], "min_count": 2, "window": 3, "min_active": 5, "n_bootstrap": 20}
PARAMS = {"run": {"device": "cpu"}, "interpret": SECTION, "judge": {}}
KEY = "sk-of-the-test"


@pytest.fixture
def project(tmp_path, monkeypatch):
    door = types.ModuleType("sae.source.transformer")
    door.load_source = lambda path, device: ToySource(n_vocab=200, seed="AS".index(path.parent.name))
    monkeypatch.setitem(sys.modules, "sae.source.transformer", door)
    monkeypatch.setattr(interpret, "load_source", door.load_source)
    monkeypatch.chdir(tmp_path)
    make_tokens(tmp_path / "data/tokens", n_vocab=200, n_heldout=80, n_train=400)
    for name, width in (("A/1", 24), ("S/0", 10)):
        with artefact.writing(tmp_path / f"data/{name[0]}/transformer", Run(kind="transformer")):
            pass
        with artefact.writing(tmp_path / f"data/{name}/dictionary", Run(kind="dictionary", id=name)) as draft:
            write_dictionary(random_dictionary(n_features=width, seed=width), draft.path)
    return tmp_path


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def found(project):
    return json.loads((project / "reports/interpret/interpret.json").read_text())


@pytest.mark.slow
def test_features_neurons_and_the_control_side_by_side_twice_the_same(project, capsys):
    interpret.main(Stage("interpret", PARAMS))
    words = found(project)
    assert words["populations"].keys() == {"A/1", "A/neurons", "S/0", "S/neurons"}
    assert [words["populations"][name]["n_units"] for name in ("A/1", "A/neurons", "S/0", "S/neurons")] == [24, 16, 10, 16]
    assert "judge" not in words
    said = capsys.readouterr().out
    for name, row in words["populations"].items():
        with open(project / f"reports/interpret/{name.replace('/', '-')}.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == row["n_scored"]
        counted = [each for each in rows if each["counted"] == "1"]
        assert len(counted) == row["n_all"]
        for column, path in (
            ("ngram_token_auc", ("ngram", "token_auc", "own")),
            ("token_spearman_other", ("token", "spearman", "other")),
            ("ngram_logit_auc_frequency", ("ngram", "logit_auc", "frequency")),
        ):
            rule, score, against = path
            median = float(np.median([float(each[column]) for each in counted]))
            assert row["all"][rule][score][against]["median"] == pytest.approx(median, abs=1e-5)
        assert f"{row['all']['ngram']['token_auc']['own']['median']:.3f}" in said
    pictures = {"token.png", "ngram.png", "token-single-token.png", "ngram-single-token.png"}
    assert {path.name for path in (project / "reports/interpret").glob("*.png")} == pictures
    run = artefact.read_run(project / "reports/interpret", "interpret")
    assert {"data/tokens", "data/A/transformer", "data/S/transformer", "data/S/0/dictionary"} < run.parents.keys()
    first = contents(project / "reports")
    interpret.main(Stage("interpret", PARAMS))
    assert contents(project / "reports") == first


def test_neurons_of_one_transformer_are_scored_once(project, monkeypatch):
    monkeypatch.setattr(interpret, "write_plots", lambda *_: None)
    interpret.main(Stage("interpret", PARAMS | {"interpret": SECTION | {"beside": ["A/1"], "n_units": 6}}))
    words = found(project)["populations"]
    assert words.keys() == {"A/1", "A/neurons"}
    assert {(row["n_scored"], row["sampled"]) for row in words.values()} == {(6, True)}


def test_with_a_judge_its_scores_stand_beside_and_a_second_run_asks_nothing(project, monkeypatch, capsys):
    monkeypatch.setenv("SAE_JUDGE_KEY", KEY)
    monkeypatch.setattr(interpret, "write_plots", lambda *_: None)
    alone = PARAMS | {"interpret": SECTION | {"beside": [], "n_units": 5}}

    def rule(messages):
        return "EXPLANATION: numbers" if "EXPLANATION:" in messages[0]["content"] else '{"1": 1}'

    with Stub(rule) as stub:
        params = alone | {"judge": {"base_url": stub.url, "model": "stub", "n_units": 3, "concurrency": 1}}
        interpret.main(Stage("interpret", params))
        words = found(project)["judge"]
        assert (words["model"], words["stopped"], words["tokens_spent"]) == ("stub", None, 25 * len(stub.seen))
        assert words["counts"]["sent"] == len(stub.seen)  # some of its few explanations are alike, and cached
        for row in words["populations"].values():
            assert (row["n_judged"], row["n_all"], row["unread_simulations"]) == (3, 3, row["n_passages"])
            assert row["all"]["spearman"]["own"]["median"] == row["all"]["spearman"]["chance"] == 0
            assert row["all"]["detection"].keys() == {"own", "shuffled", "other", "chance"}
        kept = json.loads((project / "reports/interpret/judged.json").read_text())
        assert [row["explanation"] for row in kept["A/1"]] == ["numbers"] * 3
        assert "could not be read" in capsys.readouterr().out
        n_asked = len(stub.seen)
        interpret.main(Stage("interpret", params))
        assert len(stub.seen) == n_asked
        assert found(project)["judge"]["counts"] == {"cached": sum(words["counts"].values())}
        short = params["judge"] | {"token_budget": 4000, "cache": "data/another"}
        interpret.main(Stage("interpret", params | {"judge": short}))
        assert "token_budget = 4,000 is spent" in found(project)["judge"]["stopped"]
    assert set(stub.authorizations) == {f"Bearer {KEY}"}
    assert not [path for path, content in contents(project).items() if KEY.encode() in content]


@pytest.mark.slow
def test_the_command(project):
    def run(*args):
        return CliRunner().invoke(app, ["interpret", *args, "--tokens", "1900"])

    whole = run("A/1")
    assert whole.exit_code == 0, whole.output
    assert "A/1" in whole.output
    assert "neurons" in whole.output
    one = run("A/1/5")  # which always fires
    assert one.exit_code == 0, one.output
    assert "A/1/5: fires on" in one.output
    assert "rule by n-grams" in one.output
    assert run("A/1/24").exit_code == run("A/1", "--judge").exit_code == run("A/1", "--model", "x").exit_code == 78
    assert run("A/7").exit_code == run("A/7/3").exit_code == StoreError.exit_code
    with Stub(lambda messages: "EXPLANATION: \x1b numbers" if "EXPLANATION:" in messages[0]["content"] else "{}") as stub:
        judged = run("A/1/2", "--judge", "--base-url", stub.url, "--model", "stub")
        assert judged.exit_code == 0, judged.output
        assert "judge stub: \\x1b numbers" in judged.output
        assert "by chance 0.5" in judged.output
        assert "spearman" in judged.output
        assert run("A/1/2", "--judge", "--base-url", "ftp://x", "--model", "stub").exit_code == 78


def unit(id, proxy, kind):
    return {"id": id, "pearson_proxy": proxy, "pearson_kind": kind}


def test_best_units_of_several_dictionaries_stand_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, letter, best in (("A-0", "A", 0.5), ("A-1", "A", 0.8), ("S-0", "S", 0.1)):
        row = {
            "best_feature": unit(f"{name[0]}/{name[2]}/7", best, best / 2),
            "best_feature_by_kind": unit(f"{name[0]}/{name[2]}/8", 0, best),
            "best_neuron": unit(f"{letter}/neurons/9", 0.3, None),
            "best_neuron_by_kind": None,
            "n_pure_features": 2,
            "n_pure_neurons": 0,
        }
        with artefact.writing(tmp_path / "reports" / name / "proxies", Run(kind="proxies")) as draft:
            write_figures(draft.path, "proxies", {"hypotheses": {"arabic": row}})
    params = {"run": {"device": "cpu"}, "controls": {"dictionaries": ["A/1", "A/0", "S/0"]}}
    controls.main(Stage("controls", params))
    words = json.loads((tmp_path / "reports/controls/controls.json").read_text())["arabic"]
    assert words.keys() == {"A/1", "A/0", "S/0", "A/neurons", "S/neurons"}
    assert words["A/1"] == {
        "id": "A/1/7", "pearson_proxy": 0.8, "pearson_kind": 0.4, "id_by_kind": "A/1/8", "pearson_kind_by_kind": 0.8, "n_pure": 2,
    }  # fmt: skip
    assert words["S/neurons"]["pearson_kind_by_kind"] is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-5:] == ["A/1", "A/0", "S/0", "A/neurons", "S/neurons"]
    assert lines[1].split() == ["arabic", "0.80/0.40", "0.50/0.25", "0.10/0.05", "0.30/-", "0.30/-"]
    first = contents(tmp_path / "reports")
    assert "controls/proxies.png" in first
    controls.main(Stage("controls", params))
    assert contents(tmp_path / "reports") == first
    with pytest.raises(StoreError, match="no proxies at reports/B-1/proxies"):
        controls.main(Stage("controls", params | {"controls": {"dictionaries": ["B/1"]}}))
