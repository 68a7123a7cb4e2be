"""Stages `features` and `evaluate` over a toy transformer: what they write, twice in the same bytes, and what they say."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch

from pipelines import evaluate, features
from pipelines.common import Stage
from sae import artefact
from sae.dictionary.disk import write_dictionary
from sae.errors import ConfigError, NumericsError, StoreError
from sae.features.table import COLUMNS, FeatureTable
from sae.provenance import Run
from sae.storage.share import Share
from tests.features.toy import random_dictionary
from tests.support.stores import make_tokens
from tests.support.toy_source import ToySource

PARAMS = {
    "run": {"device": "cpu"},
    "features": {"n_tokens": 300, "logit_min_count": 1},
    "evaluate": {"n_tokens": 300, "n_bootstrap": 20},
}
HISTORY = [
    {"step": 1, "loss": 3.0, "l0": 2.0, "learning_rate": 0.0, "n_dead": 1},
    {"step": 1, "event": "resampling"},
    {"step": 2, "loss": 2.0, "l0": 1.0, "learning_rate": 0.1, "n_dead": 0},
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with tokens, a dictionary with its history, and a transformer that is the toy."""
    monkeypatch.chdir(tmp_path)
    make_tokens(tmp_path / "data" / "tokens")
    for name in ("transformer", "dictionary"):
        target = tmp_path / "data" / "A" / ("transformer" if name == "transformer" else "1/dictionary")
        with artefact.writing(target, Run(kind=name, id="A/1", facts={"precision": "bfloat16"})) as draft:
            write_dictionary(random_dictionary(), draft.path)
            (draft.path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in HISTORY))
    for module in (features, evaluate):
        monkeypatch.setattr(module, "load_source", lambda path, device: ToySource())
    return tmp_path


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_features_writes_the_table(project, capsys):
    features.main(Stage("features", PARAMS))
    table = FeatureTable.open("data/A/1/features")
    assert table.run.facts["n_features"] == len(table) == 24
    assert str(table.feature(7)).startswith("A/1/7: density")
    assert "held-out tokens" in capsys.readouterr().out
    first = contents(project / "data/A/1/features")
    features.main(Stage("features", PARAMS))
    assert contents(project / "data/A/1/features") == first


def test_features_says_where_the_split_is_smaller_than_asked(project, capsys):
    features.main(Stage("features", PARAMS | {"features": {"n_tokens": 321}}))
    assert "321 tokens asked for, the held-out split has 320" in capsys.readouterr().out


def test_the_dictionary_itself_is_no_other(project):
    for itself in ("A/1", "data/A/1"):
        with pytest.raises(ConfigError, match=rf"features\.other = {itself} is the dictionary itself"):
            features.main(Stage("features", PARAMS | {"features": {"n_tokens": 300, "other": itself}}))


def test_evaluate_writes_metrics_and_plots(project, capsys):
    evaluate.main(Stage("evaluate", PARAMS))
    metrics = json.loads((project / "reports/evaluate/metrics.json").read_text())
    assert metrics.keys() == {"features", "neurons", "reconstruction", "transformer"}
    assert metrics["transformer"].pop("precision") == "bfloat16", "of the transformer: runs are compared by it"
    assert all(isinstance(value, int | float | None) for section in metrics.values() for value in section.values())
    assert "loss recovered" in capsys.readouterr().out
    pictures = {"density.png", "l0.png", "cosine.png", "training.png"}
    written = {path.name for path in (project / "reports/evaluate").iterdir()}
    assert written == pictures | {"metrics.json", "density.csv", "l0.csv", "run.json"}
    with open(project / "reports/evaluate/density.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["features"]) for row in rows) == metrics["features"]["n_alive"]
    assert sum(int(row["neurons"]) for row in rows) == metrics["neurons"]["n_alive"]
    with open(project / "reports/evaluate/l0.csv", encoding="utf-8") as file:
        counts = [(int(row["n_active"]), int(row["tokens"])) for row in csv.DictReader(file)]
    mean = sum(n * tokens for n, tokens in counts) / sum(tokens for _, tokens in counts)
    assert mean == pytest.approx(metrics["features"]["l0"], rel=1e-5)
    first = contents(project / "reports")
    evaluate.main(Stage("evaluate", PARAMS))
    assert contents(project / "reports") == first


def test_a_history_that_was_changed_is_refused(project):
    file = project / "data/A/1/dictionary/history.jsonl"
    file.write_text(file.read_text().replace("3.0", "2.0"))
    with pytest.raises(StoreError, match=r"history\.jsonl is damaged"):
        evaluate.main(Stage("evaluate", PARAMS))


def test_nothing_half_written_is_left_of_a_failure(project, monkeypatch):
    monkeypatch.setattr(ToySource, "activations", lambda self, tokens: torch.full((*tokens.shape, 16), math.nan))
    with pytest.raises(NumericsError):
        features.main(Stage("features", PARAMS))
    with pytest.raises(NumericsError):
        evaluate.main(Stage("evaluate", PARAMS))
    assert not (project / "data/A/1/features").exists()
    assert not list(project.rglob("*.partial"))
    assert not [path for path in (project / "reports").rglob("*") if path.suffix in (".json", ".png")]


def test_plots_of_a_dictionary_that_never_fires(project):
    silent = random_dictionary(bias=-1e6)
    with artefact.writing(project / "data/A/1/dictionary", Run(kind="dictionary", id="A/1")) as draft:
        write_dictionary(silent, draft.path)
    evaluate.main(Stage("evaluate", PARAMS))
    metrics = json.loads((project / "reports/evaluate/metrics.json").read_text())
    assert metrics["features"]["n_alive"] == 0
    assert metrics["features"]["encoder_decoder_cosine_median"] is None
    assert not (project / "reports/evaluate/training.png").exists()


def test_numbers_are_rounded_to_six_digits():
    rounded = evaluate.rounded({"a": {"b": 1 / 3, "c": 7, "d": math.nan, "e": 1e-9 / 3, "f": None}})
    assert rounded == {"a": {"b": 0.333333, "c": 7, "d": None, "e": 3.33333e-10, "f": None}}


def test_shares_are_merged_by_the_stage_itself(project, capsys):
    """Two of three shares read apart, the last by the stage: the table of a pass in one, to the last bit of its sums."""
    features.main(Stage("features", PARAMS))
    whole = FeatureTable.open("data/A/1/features")
    expected = {name: whole[name] for name in COLUMNS}
    params = {**PARAMS, "features": {**PARAMS["features"], "contexts_per_batch": 2}}
    for i in (2, 0):
        features.main(Stage("features", params), Share(i, 3))
        assert FeatureTable.open("data/A/1/features").run == whole.run, "a share leaves the table alone"
    with pytest.raises(StoreError, match="was made with other params"):
        features.main(Stage("features", PARAMS))
    features.main(Stage("features", params))
    assert "2 of 3 shares are in data/A/1/features.parts, 1 are read here" in capsys.readouterr().out
    merged = FeatureTable.open("data/A/1/features")
    assert merged.run.facts == whole.run.facts
    for name in COLUMNS:
        np.testing.assert_allclose(merged[name].astype(float), expected[name].astype(float), rtol=1e-5, atol=1e-5, err_msg=name)
    assert not (project / "data/A/1/features.parts").exists()


def test_what_a_killed_share_leaves_is_no_share(project):
    """A share that was killed while it was written, or while it took the place of an older one."""
    features.main(Stage("features", PARAMS), Share(0, 2))
    parts = project / "data/A/1/features.parts"
    for name in ("1-of-2.partial", "0-of-2.old.partial", "0-of-7.partial"):
        shutil.copytree(parts / "0-of-2", parts / name)
    features.main(Stage("features", PARAMS))
    assert FeatureTable.open("data/A/1/features").run.facts["n_features"] == 24


def test_features_beside_another_dictionary(project):
    """B/1 is A/1 itself under another name: every feature finds itself there."""
    for name in ("transformer", "1/dictionary"):
        shutil.copytree(project / "data/A" / name, project / "data/B" / name)
    features.main(Stage("features", {**PARAMS, "features": {**PARAMS["features"], "other": "B/1"}}))
    table = FeatureTable.open("data/A/1/features")
    assert table.info.other == "B/1"
    assert {"data/B/1/dictionary", "data/B/transformer"} < table.run.parents.keys()
    fired = table["n_active"] > 0
    assert table["other_correlated_ids"][fired, 0].tolist() == np.flatnonzero(fired).tolist()
    assert table.feature(int(np.flatnonzero(fired)[0])).correlated_elsewhere[0][1] == pytest.approx(1)
