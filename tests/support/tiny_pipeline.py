"""The default pipeline at a size of seconds, in a folder of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

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
