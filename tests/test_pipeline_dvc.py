"""The pipeline under DVC at a tiny size up to a dictionary, killed on the way and started again; and once more in one process,
same bits. Each stage is a process that imports torch and some transformer_lens: a minute or two, by `make test-pipeline`.

The stages after it are seen under DVC by `make repro`."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sae import load
from tests.support.tiny_pipeline import ENVIRONMENT, TINY, digests, dvc, make_copy

pytestmark = pytest.mark.slow
STAGES = ("corpus", "tokens", "transformer", "harvest", "train")
PATIENCE = 900
"""Seconds for what takes ten on an idle machine: only a pipeline that hangs is to fail."""


def kill_during(folder: Path, sign: str) -> None:
    """`dvc repro train`, killed with SIGKILL as soon as `sign` exists and has something in it."""
    command = [sys.executable, "-m", "dvc", "repro", "train"]
    process = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while not (folder / sign).exists() or (folder / sign).stat().st_size == 0:
        assert process.poll() is None, "dvc ended before it could be killed"
        assert time.monotonic() < deadline, f"no {sign} after {PATIENCE} s"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was killed in the middle of training the transformer and started again, and once more of the dictionary."""
    folder = make_copy(tmp_path_factory.mktemp("dvc") / "project")
    dvc(folder, "init", "--no-scm", "-q")
    kill_during(folder, "data/A/transformer.partial")
    assert not (folder / "data/A/transformer").exists()
    kill_during(folder, "logs/A-1-train.jsonl")
    wait_for_checkpoint(folder / "data/A/1/checkpoints")
    output = dvc(folder, "repro", "train")
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
    assert load("A/1", root=folder / "data").run.facts["last_record"]["step"] == TINY["train"]["n_steps"]
    assert not list(folder.rglob("*.partial"))
    assert not (folder / "data/A/1/checkpoints").exists()
    assert "Stage 'corpus' didn't change, skipping" in output


def test_second_run_does_nothing(finished):
    folder, _ = finished
    output = dvc(folder, "repro", "train")
    assert set(re.findall("Running stage '(.*)'", output)) == {"inputs"}, "it looks whether an input was changed"
    assert output.count("didn't change, skipping") == len(STAGES)


def test_same_bits_in_another_run(finished, tmp_path):
    """The stages in one process, in another folder: every file of every artefact has the digest of the first run."""
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


def test_a_folder_of_somebody_elses_stays_under_dvc_too(tmp_path):
    """DVC by itself removes what lies where a stage writes, before the stage runs."""
    folder = make_copy(tmp_path / "project")
    dvc(folder, "init", "--no-scm", "-q")
    (folder / "data/corpus/.git").mkdir(parents=True)
    (folder / "data/corpus/paper.tex").write_text("years of work")
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "corpus"], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "corpus: data/corpus holds something else than a corpus, and stays as it is" in done.stderr
    assert (folder / "data/corpus/paper.tex").read_text() == "years of work"
    assert (folder / "data/corpus/.git").is_dir()
