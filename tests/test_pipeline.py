"""The whole pipeline at a tiny size, stage after stage in this process (under DVC: test_pipeline_dvc.py)."""

import importlib
import json

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.common import Stage
from sae import load
from sae.cli.main import app
from sae.errors import ConfigError, SaeError
from tests.support.tiny_pipeline import STAGES, TINY, digests, make_copy


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run."""
    folder = make_copy(tmp_path_factory.mktemp("pipeline") / "project", {**TINY, "wandb": {"mode": "disabled"}})
    params = yaml.safe_load((folder / "params.yaml").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in STAGES:
            importlib.import_module(f"pipelines.{name}").main(Stage(name, params))
    return folder


def test_everything_is_in_place(finished):
    for path in ("data/A/1/browser/index.html", "reports/evaluate", "reports/proxies", "data/A/1/dictionary/weights.safetensors"):
        assert (finished / path).exists()
    assert not list(finished.rglob("*.partial"))
    assert not (finished / "data/A/1/checkpoints").exists()
    assert "features, held-out text" in (finished / "reports/summary.txt").read_text()


@pytest.mark.parametrize(
    "words",
    [["info", "A/1"], ["features", "A/1", "--text", "def f(x): return x"], ["feature", "A/1/3"], ["browse", "A/1", "--no-open"]],
    ids=lambda words: words[0],
)
def test_the_command_line_reads_the_result(finished, monkeypatch, words):
    monkeypatch.chdir(finished)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.output.strip()


def test_an_unknown_section_is_named():
    with pytest.raises(ConfigError, match="a section 'corpuss' that no stage reads"):
        Stage("corpus", {"corpuss": {}, "run": {}})


@pytest.mark.parametrize(
    ("section", "change", "message", "code"),
    [
        ("train", {"n_featurs": 3}, "did you mean 'n_features'", 78),
        ("train", {"l1": "strong"}, "'train.l1' = 'strong'", 78),
        ("train", {"n_features": 10_000_000}, "n_features", 78),
        ("harvest", {"n_rows": 10_000_000}, "nothing is repeated", 65),
        ("transformer", {"layer": 3}, "layer 3", 78),
        ("run", {"device": "abacus"}, "device 'abacus'", 78),
        ("run", {"device": "meta"}, "device 'meta'", 78),
        ("run", {"transformer": "../x"}, "a name of letters", 78),
        ("run", {"threads": -1}, "'threads' = -1", 78),
        ("train", {"seed": -1}, "'train.seed' = -1", 78),
        ("train", {"betas": [2.0, 0.9]}, "'betas'", 78),
    ],
)
def test_wrong_params_end_with_one_clear_message(finished, section, change, message, code, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    before = digests(finished)
    params = yaml.safe_load((finished / "params.yaml").read_text())
    params[section].update(change)
    stage = section if section != "run" else "train"
    with pytest.raises(SaeError, match=message) as caught:
        importlib.import_module(f"pipelines.{stage}").main(Stage(stage, params))
    assert caught.value.exit_code == code
    assert digests(finished) == before
    assert not list(finished.rglob("*.partial"))


def test_a_sweep_is_in_its_own_folder_and_table(finished):
    table = json.loads((finished / "reports/sweep/sweep.json").read_text())
    assert set(table) == {"A/sweep/sparse", "A/sweep/new"}
    assert table["A/sweep/sparse"]["step"] == 40
    sparse, new = (load(f"A/sweep/{name}", root=finished / "data") for name in ("sparse", "new"))
    assert (sparse.variant, new.variant) == ("tied_bias_relu", "relu")
    assert sparse.run is not None
    assert sparse.run.params["l1"] == 6.0
