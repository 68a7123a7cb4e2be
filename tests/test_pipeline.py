"""The whole pipeline at a tiny size: under DVC, killed on the way and started again; and once more in one process, same bits."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.common import Stage
from sae import load
from sae.cli.main import app
from tests.import_graph import ROOT

TINY = {
    "corpus": {"megabytes": 0.8},
    "tokens": {"n_vocab": 700, "context_length": 48},
    "transformer": {"n_tokens": 60_000, "d_model": 32, "d_mlp": 64, "n_heads": 2, "heldout_tokens": 8192},
    "harvest": {"n_rows": 30_000, "positions_per_context": 16},
    "train": {"n_features": 128, "batch_size": 1024, "n_steps": 400, "resample_inputs": 2048, "log_every": 1},
    "sweep": {"dictionaries": {"sparse": {"l1": 6.0, "n_steps": 40}, "new": {"recipe": "april2024", "n_steps": 60}}},
    "features": {"n_tokens": 16_384},
    "evaluate": {"n_tokens": 8192, "n_density_tokens": 16_384, "n_bootstrap": 50},
    "proxies": {
        "n_tokens": 16_384,
        "n_sample_tokens": 16_384,
        "hypotheses": ["hebrew", "dna-competing"],
    },  # a plot takes a second
}
STAGES = (
    "corpus",
    "tokens",
    "transformer",
    "harvest",
    "train",
    "sweep",
    "features",
    "evaluate",
    "proxies",
    "browser",
    "report",
    "summary",
)
PATIENCE = 900
"""Seconds for what takes ten on an idle machine: only a pipeline that hangs is to fail."""
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "HF_HUB_OFFLINE": "1",
    "DVC_NO_ANALYTICS": "1",
}


def make_copy(folder: Path, changes: dict[str, dict[str, Any]] = TINY) -> Path:
    """A copy of the project with tiny params, with no git around it."""
    folder.mkdir()
    for name in ("sae", "pipelines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc", "*.tmp.*"))  # numba's cache goes along
    for name in ("dvc.yaml", "requirements.lock", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in changes.items():
        params[section].update(values)
    params["run"]["threads"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def dvc(folder: Path, *args: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *args], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kill_during(folder: Path, sign: str) -> None:
    """`dvc repro`, killed with SIGKILL as soon as `sign` exists and has something in it."""
    process = subprocess.Popen([sys.executable, "-m", "dvc", "repro"], cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while not (folder / sign).exists() or (folder / sign).stat().st_size == 0:
        assert process.poll() is None, "dvc ended before it could be killed"
        assert time.monotonic() < deadline, f"no {sign} after {PATIENCE} s"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def digests(folder: Path) -> dict[str, dict[str, str]]:
    """Every artefact's own digests of its files, and the reports."""
    found = {}
    for record in sorted(folder.glob("data/**/run.json")) + sorted(folder.glob("reports/**/run.json")):
        run = json.loads(record.read_text())
        run.pop("code")
        found[record.relative_to(folder).as_posix()] = run
    for report in sorted(folder.glob("reports/*.txt")):
        found[report.relative_to(folder).as_posix()] = report.read_text()
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was killed in the middle of training the transformer and started again, and once more of the dictionary."""
    folder = make_copy(tmp_path_factory.mktemp("dvc") / "project")
    dvc(folder, "init", "--no-scm", "-q")
    kill_during(folder, "data/A/transformer.partial")
    assert not (folder / "data/A/transformer").exists()
    kill_during(folder, "logs/A-1-train.jsonl")
    wait_for_checkpoint(folder / "data/A/1/checkpoints")
    output = dvc(folder, "repro")
    return folder, output


def wait_for_checkpoint(folder: Path) -> None:
    """The stage gets a SIGTERM when DVC dies; it saves itself and ends."""
    deadline = time.monotonic() + PATIENCE
    while not (records := list(folder.glob("step-*.json"))):
        assert time.monotonic() < deadline, "no checkpoint after SIGTERM"
        time.sleep(0.02)
    assert 0 < json.loads(records[0].read_text())["step"] < TINY["train"]["n_steps"]


def test_killed_and_started_again_it_ends_with_everything_in_place(finished):
    folder, output = finished
    for path in ("data/A/1/browser/index.html", "reports/evaluate", "reports/proxies", "data/A/1/dictionary/weights.safetensors"):
        assert (folder / path).exists()
    assert not list(folder.rglob("*.partial"))
    assert not (folder / "data/A/1/checkpoints").exists()
    assert (folder / "reports/summary.txt").read_text() in output
    assert "Stage 'corpus' didn't change, skipping" in output


def test_second_run_does_nothing(finished):
    folder, _ = finished
    output = dvc(folder, "repro")
    assert re.findall("Running stage '(.*)'", output) == ["inputs", "other"], "the two that look whether an input was changed"
    assert output.count("didn't change, skipping") == len(STAGES)


def test_same_bits_in_another_run(finished, tmp_path):
    """All stages in one process, in another folder: every file of every artefact has the digest of the first run."""
    folder, _ = finished
    again = make_copy(tmp_path / "again", {**TINY, "wandb": {"mode": "disabled"}})  # no artefact knows of it
    program = (
        "import sys, yaml, torch\n"
        "from importlib import import_module\n"
        "from pipelines.common import Stage\n"
        "torch.set_num_threads(1); torch.use_deterministic_algorithms(True, warn_only=True)\n"
        f"for name in {STAGES!r}:\n"
        "    import_module(f'pipelines.{name}').main(Stage(name, yaml.safe_load(open('params.yaml'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=again, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = digests(folder), digests(again)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name] == second[name], name


@pytest.mark.slow
def test_live_training_stores_nothing(tmp_path):
    """`train.source: live` under DVC: a record in the store's place, a second run that does nothing, and a change of the plan
    that reaches training through the record."""
    folder = make_copy(tmp_path / "project")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["train"] |= {"source": "live", "live_buffer_rows": 8192, "n_steps": 60}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    dvc(folder, "init", "--no-scm", "-q")
    assert "30,000 rows of 64 an epoch" in dvc(folder, "repro", "train", "sweep")
    activations = folder / "data/A/activations"
    assert [path.name for path in activations.iterdir()] == ["run.json"]
    record = json.loads((activations / "run.json").read_text())
    assert (record["kind"], len(record["parents"])) == ("live feed", 2)
    assert load("A/1", root=folder / "data").run.facts["epochs"] == 60 * 1024 / 30_000
    assert re.findall("Running stage '(.*)'", dvc(folder, "repro", "train", "sweep")) == ["inputs"]
    params["harvest"]["n_rows"] = 20_000
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    assert "20,000 rows of 64 an epoch" in dvc(folder, "repro", "train")


@pytest.mark.parametrize(
    "words",
    [["info", "A/1"], ["features", "A/1", "--text", "def f(x): return x"], ["feature", "A/1/3"], ["browse", "A/1", "--no-open"]],
    ids=lambda words: words[0],
)
def test_the_command_line_reads_the_result(finished, monkeypatch, words):
    folder, _ = finished
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.output.strip()


def test_an_unknown_section_is_named():
    from sae.errors import ConfigError

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
    folder, _ = finished
    monkeypatch.chdir(folder)
    before = digests(folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params[section].update(change)
    stage = section if section != "run" else "train"
    from sae.errors import SaeError

    with pytest.raises(SaeError, match=message) as caught:
        importlib.import_module(f"pipelines.{stage}").main(Stage(stage, params))
    assert caught.value.exit_code == code
    assert digests(folder) == before
    assert not list(folder.rglob("*.partial"))


def test_a_sweep_is_in_its_own_folder_and_table(finished):
    folder, _ = finished
    table = json.loads((folder / "reports/sweep/sweep.json").read_text())
    assert set(table) == {"A/sweep/sparse", "A/sweep/new"}
    assert table["A/sweep/sparse"]["step"] == 40
    sparse, new = (load(f"A/sweep/{name}", root=folder / "data") for name in ("sparse", "new"))
    assert (sparse.variant, new.variant) == ("tied_bias_relu", "relu")
    assert sparse.run is not None
    assert sparse.run.params["l1"] == 6.0
