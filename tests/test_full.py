"""`make full` at a tiny size, under DVC: two transformers and a control, dictionaries on rows of their own, what they share."""

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from dvc.repo import Repo
from typer.testing import CliRunner

from sae import load
from sae.cli.main import app
from sae.features.table import FeatureTable
from sae.source.transformer import load_source
from tests.import_graph import ROOT
from tests.support.tiny_pipeline import TINY, dvc, make_copy

WIDTHS = {"A-0": 32, "A-1": 64, "A-2": 128, "B-1": 64, "S-0": 32}
SMALL = {
    **TINY,
    "harvest": {"n_rows": 8192, "positions_per_context": 16},
    "train": {"batch_size": 512, "n_steps": 60, "resample_inputs": 1024},
    "proxies": {"n_tokens": 16_384, "n_sample_tokens": 16_384},  # of all hypotheses, as by default
    "wandb": {"mode": "disabled"},
    "universality": {"n_tokens": 8192, "n_bootstrap": 50},
    "interpret": {"n_tokens": 8192, "n_units": 20, "min_active": 3, "n_bootstrap": 20},
    "automata": {"n_tokens": 8192},
    "splitting": {"n_tokens": 8192},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = make_copy(tmp_path_factory.mktemp("full") / "project", SMALL)
    (folder / "full").mkdir()
    shutil.copy(ROOT / "full/dvc.yaml", folder / "full/dvc.yaml")
    params = yaml.safe_load((ROOT / "full/params.yaml").read_text())
    assert params["dictionaries"].keys() == WIDTHS.keys()
    for name, width in WIDTHS.items():
        params["dictionaries"][name]["n_features"] = width
    params["dictionaries"]["S-0"]["settings"] = "--set harvest.n_rows=4096 --set train.n_steps=30"
    (folder / "full/params.yaml").write_text(yaml.safe_dump(params))
    for repository in (folder, folder / "full"):  # full/ is a DVC repository of its own
        dvc(repository, "init", "--no-scm", "-q")
    dvc(folder / "full", "repro")
    return folder


@pytest.mark.slow
def test_all_of_it_is_there_and_each_has_its_own_rows(finished):
    rows = set()
    for name, width in WIDTHS.items():
        letter, number = name.split("-")
        dictionary = load(f"{letter}/{number}", root=finished / "full/data")
        assert (dictionary.n_features, dictionary.run.id) == (width, f"{letter}/{number}")
        run = finished / "full/data" / letter / number
        rows.add((run / "activations/run.json").read_bytes())
        if letter == "S":  # the control has proxies and scores alone
            continue
        assert len(FeatureTable.open(run / "features")) == width
        assert (run / "browser/index.html").is_file()
        metrics = json.loads((finished / "full/reports" / name / "evaluate/metrics.json").read_text())
        assert metrics["features"]["n_units"] == width
    assert len(rows) == 5
    assert load("S/0", root=finished / "full/data").run.params["n_steps"] == 30
    losses = {json.loads((finished / f"full/data/{letter}/transformer/run.json").read_text())["seed"] for letter in "AB"}
    assert losses == {0, 1}


@pytest.mark.slow
def test_universality_is_reported_and_the_command_says_the_same(finished):
    reports = finished / "full/reports"
    found = json.loads((reports / "universality/universality.json").read_text())
    assert found.keys() == {"A/1 B/1", "A/0 A/1", "A/1 A/2"}
    across = found["A/1 B/1"]["medians"]
    assert across["features, best"]["median"] > across["features, best, shuffled tokens"]["median"]  # of so little, no more
    assert across["neurons, best"]["median"] > across["neurons, best, shuffled tokens"]["high"]
    assert "neurons, best" not in found["A/0 A/1"]["medians"]
    assert {path.name for path in (reports / "universality").glob("A-1+B-1.*")} == {"A-1+B-1.csv", "A-1+B-1.png"}
    done = CliRunner().invoke(app, ["universality", "A/1", "B/1", "--tokens", "8192", "--root", str(finished / "full/data")])
    assert done.exit_code == 0, done.output
    assert f"{across['neurons, best']['median']:.3f}" in done.output
    assert "L0" in CliRunner().invoke(app, ["info", "A/2", "--root", str(finished / "full/data")]).output


@pytest.mark.slow
def test_the_control_stands_beside(finished):
    """S is A with its weights in another order: the same numbers in each tensor; it is scored and compared with the others."""
    mine, shuffled = (load_source(finished / f"full/data/{letter}/transformer", "cpu") for letter in "AS")
    for (name, weight), (_, other) in zip(weights(mine), weights(shuffled), strict=True):
        assert torch.equal(weight.flatten().sort().values, other.flatten().sort().values), name
    assert any(not torch.equal(weight, other) for (_, weight), (_, other) in zip(weights(mine), weights(shuffled), strict=True))
    reports = finished / "full/reports"
    found = json.loads((reports / "A-1/interpret/interpret.json").read_text())["populations"]
    assert found.keys() == {"A/1", "A/neurons", "A/0", "S/0", "S/neurons"}
    assert found["A/1"]["sampled"]
    arabic = json.loads((reports / "controls/controls.json").read_text())["arabic"]
    assert arabic.keys() == {"A/0", "A/1", "A/2", "B/1", "S/0", "A/neurons", "B/neurons", "S/neurons"}


def weights(source):
    return sorted(source.bridge.original_model.named_parameters())


@pytest.mark.slow
def test_a_second_run_does_nothing_and_the_default_pipeline_is_not_touched(finished):
    ran = re.findall("Running stage '(.*)'", dvc(finished / "full", "repro"))
    assert ran == ["inputs", "other"], "the two that look whether an input was changed"
    assert not (finished / "data").exists()
    above = dvc(finished, "stage", "list", "--name-only").split()
    assert set(above) == yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].keys()
    assert "--params" not in dvc(finished, "repro", "corpus")
    assert (finished / "data/corpus").exists()


def test_the_repository_above_sees_nothing_of_this_folder() -> None:
    configs = []
    for folder in (ROOT, ROOT / "full"):
        config = configparser.ConfigParser()
        config.read(folder / ".dvc/config")
        configs.append({name: dict(config[name]) for name in config.sections()})
    assert (ROOT / "full/.dvc" / configs[1]["cache"].pop("dir")).resolve() == ROOT / ".dvc/cache"
    assert configs[0] == configs[1]


@pytest.mark.slow
def test_what_dvc_finds_in_each_of_the_two_repositories(tmp_path: Path) -> None:
    for folder in ("", "full"):
        shutil.copytree(ROOT / folder / ".dvc", tmp_path / folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(ROOT / folder / name, tmp_path / folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    outs = {}
    for folder in ("", "full"):
        with Repo(str(tmp_path / folder)) as repo:
            outs[folder] = {Path(out.fs_path).relative_to(tmp_path).parts[0] for out in repo.index.outs}
    assert outs == {"": {"data", "reports", "logs"} & outs[""], "full": {"full"}}
    assert "data" in outs[""]
