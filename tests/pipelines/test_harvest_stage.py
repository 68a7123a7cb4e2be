"""The harvest's stage under DVC: a store that stands is not made again, and DVC reads no more of it than its manifest."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.harvest import is_made
from tests.import_graph import ROOT
from tests.support.stores import make_tokens
from tests.support.toy_harvest import bytes_of, small, toy_harvest, toy_run

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def tokens(tmp_path, monkeypatch):
    small(monkeypatch)
    return make_tokens(tmp_path / "tokens", n_train=640)


def test_what_stands_is_not_made_again(tmp_path, tokens):
    store = tmp_path / "acts"
    assert not is_made(store, toy_run(REVISION))
    toy_harvest(store, tokens, code=REVISION)
    assert is_made(store, toy_run(REVISION))
    for other in (toy_run(REVISION, seed=1), toy_run(REVISION, {"tokens": "x"}), toy_run(REVISION[::-1])):
        assert not is_made(store, other)
    shard = store / "activations.zarr/activations/c/3/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert not is_made(store, toy_run(REVISION))


@pytest.mark.parametrize("code", [REVISION + "+", "unknown"])
def test_code_that_no_revision_names_may_have_changed(tmp_path, tokens, code):
    toy_harvest(tmp_path / "acts", tokens, code=code)
    assert not is_made(tmp_path / "acts", toy_run(code))


def harvest_out() -> dict:
    """The stage's output as our dvc.yaml declares it."""
    (out,) = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["harvest"]["outs"]
    ((name, how),) = out.items()
    return {name.replace("${run.transformer}", "A"): how}


def dvc(folder: Path, *args: str) -> tuple[str, float]:
    """What DVC says, and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *args],
        cwd=folder,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize("n_shards", [1, 100])
def test_dvc_looks_at_the_manifest_alone(tmp_path, tokens, n_shards):
    """It neither removes the store, nor reads of it anything but run.json: the rest may even be gone."""
    folder = tmp_path / "project"
    store = folder / "data/A/activations"
    toy_harvest(store, tokens, n_rows=32 * n_shards)
    before = bytes_of(store)
    stage = {"cmd": "true", "outs": [harvest_out()]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"harvest": stage}}))
    dvc(folder, "init", "--no-scm", "-q")
    assert "Running stage" in dvc(folder, "repro")[0]
    assert bytes_of(store) == before
    for file in store.glob("activations.zarr/*/c/*/0"):
        file.unlink()
    spent = []
    for _ in range(5):
        for command in ("repro", "status"):
            said, seconds = dvc(folder, command)
            assert "up to date" in said
            spent.append(f"{command} {seconds:.2f}")
    print(f"\nCPU seconds with {n_shards} shards: {', '.join(sorted(spent))}")
    (store / "run.json").write_text("{}")
    assert "modified" in dvc(folder, "status")[0]
