"""Every stage of the pipeline at a size of seconds, each life with a fault where a test wants it."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.import_graph import ROOT

HEBREW = "אבגדהוזחטיכלמנסעפצקרשת"
HERE = Path(__file__).resolve().parent
PARAMS: dict[str, dict[str, Any]] = {
    "run": {"several": True, "threads": 1},
    "corpus": {"source": "files", "files": ["texts/*.txt"]},
    "tokens": {"n_vocab": 300, "context_length": 32},
    "transformer": {"n_tokens": 8_000, "d_model": 16, "d_mlp": 32, "n_heads": 2, "heldout_tokens": 1024},
    "harvest": {"n_rows": 2_000, "positions_per_context": 8},
    "train": {"n_features": 48, "batch_size": 256, "n_steps": 30, "resample_inputs": 256, "log_every": 5},
    "sweep": {"dictionaries": {"small": {"n_features": 24}}},
    "wandb": {"mode": "disabled"},
    "features": {"n_tokens": 2048},
    "evaluate": {"n_tokens": 1024, "n_density_tokens": 2048, "n_bootstrap": 20},
    "proxies": {"n_tokens": 2048, "n_sample_tokens": 2048, "hypotheses": ["hebrew"]},
    "interpret": {"n_tokens": 2048, "n_units": 8, "n_bootstrap": 20},
    "universality": {"pairs": [["A/1", "A/sweep/small"]], "n_tokens": 2048},
    "claims": {"hypotheses": ["hebrew"], "n_controls": 3, "n_continuations": 2, "n_bootstrap": 20},
    "controls": {"dictionaries": ["A/1"]},
    "automata": {},
    "splitting": {"dictionaries": ["A/sweep/small", "A/1"]},
}
OUTPUTS = {
    "corpus": ("data/corpus",),
    "tokens": ("data/tokens",),
    "transformer": ("data/A/transformer",),
    "harvest": ("data/A/1/activations",),
    "train": ("data/A/1/dictionary",),
    "sweep": ("data/A/sweep/small/dictionary", "reports/A-1/sweep.json"),
    "features": ("data/A/1/features",),
    "evaluate": ("reports/A-1/evaluate", "reports/A-1/metrics.json"),
    "proxies": ("reports/A-1/proxies", "reports/A-1/proxies.json"),
    "interpret": ("reports/A-1/interpret", "reports/A-1/interpret.json"),
    "browser": ("data/A/1/browser",),
    "universality": ("reports/universality", "reports/universality.json"),
    "claims": ("reports/A-1/claims", "reports/A-1/claims.json"),
    "controls": ("reports/controls", "reports/controls.json"),
    "automata": ("reports/A-1/automata", "reports/A-1/automata.json"),
    "splitting": ("reports/splitting", "reports/splitting.json"),
    "report": ("data/A/1/report",),
    "summary": ("reports/A-1/summary.txt",),
}
"""What each stage makes, in an order in which they can run."""


class Life(NamedTuple):
    """How a stage ended."""

    code: int
    errors: str
    """What it said on stderr."""
    n_calls: int
    """File calls that were counted; 0 where it was killed."""
    last: str
    """The call that failed."""


def compiled(folder: Path) -> Path | None:
    """The shim, made in `folder`; None where there is no compiler."""
    cc = shutil.which("cc")
    if cc is None or sys.platform != "linux":
        return None
    library = folder / "shim.so"
    subprocess.run([cc, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "shim.c"), "-ldl"], check=True)
    return library


class Stages:
    """Begins lives of stages in `folder`'s projects. A context manager: it holds a process."""

    def __init__(self, shim: Path, scratch: Path, names: Sequence[str] = tuple(OUTPUTS), *, first: str = ""):
        """`first` is a module that the process imports before all stages."""
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
        environment = {**os.environ, **one_thread, **quiet, "LD_PRELOAD": str(shim), "PYTHONPATH": str(ROOT)}
        self._scratch = scratch
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server", str(shim), first, *names],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def __enter__(self) -> "Stages":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()

    def _answer(self) -> str:
        return self._server.stdout.readline().strip()

    def live(
        self,
        folder: Path,
        stage: str,
        *words: str,
        at: int | None = None,
        error: int = 0,
        stays: bool = False,
        reads: bool = False,
    ) -> Life:
        """One life of `stage`; with `at` it is killed at that file call, or with `error` that fails. -1 only counts."""
        errors, told = self._scratch / "errors.txt", self._scratch / "told.json"
        told.unlink(missing_ok=True)
        arm = None if at is None else [at, error, int(stays), int(reads)]
        order = {"stage": stage, "words": words, "folder": str(folder), "arm": arm, "errors": str(errors), "told": str(told)}
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        code = json.loads(self._answer())["code"]
        counted = json.loads(told.read_text()) if told.exists() else {"n_calls": 0, "last": ""}
        return Life(code, errors.read_text(errors="replace"), **counted)


def make_project(folder: Path) -> Path:
    """A project with texts and params, in which nothing was made yet."""
    (folder / "texts").mkdir(parents=True)
    source = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/method.md", "docs/store.md", "docs/training.md")]
    for file in source:
        words = file.read_text(encoding="utf-8")
        parts = [words[start : start + 2_000] for start in range(0, min(len(words), 40_000), 2_000)]
        for i, part in enumerate(parts):
            (folder / "texts" / f"{file.stem}-{i}.txt").write_text(part, encoding="utf-8")
    chance = random.Random(0)
    for i in range(40):
        words = ["".join(chance.choices(HEBREW, k=chance.randint(2, 6))) for _ in range(60)]
        (folder / "texts" / f"hebrew-{i}.txt").write_text(" ".join(words), encoding="utf-8")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in PARAMS.items():
        params.setdefault(section, {}).update(values)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder
