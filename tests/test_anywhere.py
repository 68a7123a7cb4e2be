"""The commands and the library on set-ups that are not the developer's: other processors, other owners, no git, an old Python."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sae import machine_code, processor
from sae.ties import first_best
from tests.import_graph import ROOT

READ = """
import numpy as np
from sae.storage.native_gather import gather
chunk = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float16)
rows, out = np.array([6, 1]), np.empty((2, 16), np.float32)
gather([chunk], np.array([0, 8]), rows, "float16", out)
assert (out == chunk[rows].astype(np.float32)).all()
"""
TRAIN = """
import torch
from sae.kernels.cpu import CpuEngine
from sae.kernels.objective import Objective, UpdateRule
from sae.processor import can
from tests.support.problems import problem
from sae.kernels.state import State
weights, x = problem(n_rows=40, n_features=24, bias=-3.0)
engine = CpuEngine(State.start(weights), Objective(tied_bias=True, weighted_l1=False), UpdateRule())
assert bool(engine.sparse(x, 0.1, 1e-3).finite)
assert not can("avx2") and not can("f16c")
"""
PATIENCE = 600


def python(program, environment=None, prefix=()):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    done = subprocess.run(
        [*prefix, sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-3000:]}"


def test_an_instruction_is_written_only_where_numba_takes_it():
    """`generic` has neither AVX2 nor F16C: the process died, at the one by SIGABRT and at the other by SIGSEGV."""
    python(READ + TRAIN, {"NUMBA_CPU_NAME": "generic"})


def test_host_and_code_generator_must_agree(monkeypatch):
    host = {"avx2": True, "f16c": True, "fma": False}
    monkeypatch.setattr(processor.binding, "get_host_cpu_features", lambda: host)
    monkeypatch.setattr(processor.torch.cpu, "get_capabilities", lambda: {"avx2": True})
    monkeypatch.setattr(processor, "_accepted", lambda: frozenset({"avx2", "fma"}))
    asked = processor.can.__wrapped__
    assert asked("avx2")
    assert not asked("f16c"), "the code generator was not given it"
    assert not asked("fma"), "the host has none, whatever the target says"
    monkeypatch.setattr(processor.torch.cpu, "get_capabilities", lambda: {"avx2": False})
    assert not asked("avx2")


def test_a_folder_that_is_not_ours_is_not_taken(tmp_path):
    first = machine_code.private_folder(tmp_path)
    assert machine_code.private_folder(tmp_path) == first, "the next process finds it"
    first.chmod(0o777)
    second = machine_code.private_folder(tmp_path)
    assert second != first
    assert stat.S_IMODE(second.stat().st_mode) == 0o700
    assert machine_code.private_folder(tmp_path / "missing") is None


def test_of_equals_the_lowest_index():
    values = np.array([[0.5, 1.0, 1.0 + 4e-16, np.nan], [0.2, 0.1, 0.2 - 1e-8, 0.0]])
    assert first_best(values).tolist() == [1, 0]


def make(folder, *words, **environment):
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture
def bare(tmp_path):
    """The Makefile and what its rules look at, in a folder that is no repository."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    for name in (".dvc", "full/.dvc"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    return tmp_path


def test_without_git_dvc_is_told(bare):
    (bare / ".venv").mkdir()
    (bare / ".venv/bin").symlink_to(Path(sys.executable).parent)
    (bare / ".venv/installed").touch()
    environment = {"GIT_CEILING_DIRECTORIES": str(bare.parent)}
    assert make(bare, "scm", **environment).returncode == 0
    for folder in (bare, bare / "full"):
        assert "no_scm = true" in (folder / ".dvc/config.local").read_text()


def test_an_older_python_says_what_is_needed_and_its_environment_goes(bare):
    old = bare / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.10.13" && exit 0\nexit 1\n')
    old.chmod(0o755)
    (bare / ".venv/bin").mkdir(parents=True)
    shutil.copy(old, bare / ".venv/bin/python")
    done = make(bare, "setup", f"PYTHON={old}")
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "3.10.13" in done.stderr
    assert not (bare / ".venv").exists()
