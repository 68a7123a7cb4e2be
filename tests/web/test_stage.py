"""The stage `browser` over a toy project."""

import shutil

import pytest

from pipelines import browser
from pipelines.common import Stage
from sae import artefact
from sae.errors import StoreError
from tests.web import reading_back, toy_project

PARAMS = {"run": {"device": "cpu"}, "browser": {"n_features": 0, "chunk": 8}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    toy_project.make(root)
    return root


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def header(project):
    return reading_back.read(project / "data/A/1/browser/data/index.js")[0]


def test_the_stage_writes_a_committed_page_with_the_figures(project, capsys):
    browser.main(Stage("browser", PARAMS))
    run = artefact.read_run("data/A/1/browser", "browser")
    assert run.parents == {f"data/A/1/{name}": artefact.digest(f"data/A/1/{name}") for name in ("features", "dictionary")} | {
        "reports/evaluate": artefact.digest("reports/evaluate")
    }
    assert {"index.html", "style.css", "app.js", "data/index.js", "data/tokens.js", "data/features_0002.js"} <= run.files.keys()
    figures = {figure["label"]: figure["value"] for figure in header(project)["figures"]}
    assert figures == {"Variant": "tied bias relu", "Neurons": "16", "L0": "16.9", "Loss recovered": "93.9 %"}
    assert "browser: 24 features" in capsys.readouterr().out


def test_without_figures_of_this_dictionary_the_page_goes_without(project, capsys):
    shutil.rmtree(project / "reports/evaluate")
    browser.main(Stage("browser", PARAMS))
    assert [figure["label"] for figure in header(project)["figures"]] == ["Variant", "Neurons"]
    assert "dvc repro evaluate" in capsys.readouterr().out


def test_two_runs_give_the_same_bytes(project):
    browser.main(Stage("browser", PARAMS))
    first = artefact.digest("data/A/1/browser")
    browser.main(Stage("browser", PARAMS))
    assert artefact.digest("data/A/1/browser") == first


def test_without_a_feature_table_the_stage_says_what_to_run_and_leaves_the_old_page(project):
    shutil.rmtree("data/A/1/features")
    with pytest.raises(StoreError, match="dvc repro features"):
        browser.main(Stage("browser", PARAMS))
    artefact.verify("data/A/1/browser", artefact.read_run("data/A/1/browser", "browser"))
