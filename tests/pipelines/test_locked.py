"""A second process at the same stage of the same dictionary is told so in one line, and nothing is lost."""

import os
import subprocess
import sys

import pytest

from pipelines.common import run_stage
from sae import artefact
from tests.import_graph import ROOT

FIRST = """
import sys
from pipelines.common import run_stage
from sae import artefact
def main(stage):
    with artefact.writing(stage.features, stage.run("features", stage.config)) as draft:
        (draft.path / "data").write_text("of the first")
        print("at work", flush=True)
        sys.stdin.read()
run_stage("features", main)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["x"])
    (tmp_path / "params.yaml").write_text("run: {device: cpu}\n")
    return tmp_path


def test_the_second_is_told_and_the_first_ends(project, monkeypatch, capsys):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    seen = []
    with subprocess.Popen([sys.executable, "-c", FIRST], env=environment, text=True, **pipes) as first:
        assert first.stdout.readline() == "at work\n"
        with pytest.raises(SystemExit) as caught:
            run_stage("features", seen.append)
        assert caught.value.code == 75
        told = capsys.readouterr()
        expected = f"features: stage features of A/1 is being run by process {first.pid}; wait for it, or end it\n"
        assert (told.out, told.err) == ("", expected)
        assert (project / "data/A/1/features.partial/data").read_text() == "of the first"
        run_stage("evaluate", seen.append)
        monkeypatch.setattr("sys.argv", ["x", "--set", "run.dictionary=2"])
        run_stage("features", seen.append)
        assert [(stage.name, stage.dictionary_id) for stage in seen] == [("evaluate", "A/1"), ("features", "A/2")]
        _, errors = first.communicate("", timeout=600)
        assert (first.returncode, errors) == (0, "")
    artefact.verify(project / "data/A/1/features", artefact.read_run(project / "data/A/1/features", "features"))
    assert (project / "data/A/1/features/data").read_text() == "of the first"
    monkeypatch.setattr("sys.argv", ["x"])
    run_stage("features", seen.append)
    assert len(seen) == 3
