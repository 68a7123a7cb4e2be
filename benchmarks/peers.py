"""The peers in an environment of their own, made once, with pinned versions; and training their dictionaries in it.

Nothing of it is in the project's environment: SAELens needs transformer_lens below 4, which this project is above.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.batches import Trained
from sae.errors import UnavailableError

ROOT = Path(__file__).resolve().parent.parent
LOCK = Path(__file__).with_name("peers.lock")
TORCH = "torch==2.13.0"
"""First and with its dependencies, by pip's own configuration (a CPU build where that names one); all else without, so that
nothing pulls another."""
TRAINERS = {
    "saelens": "benchmarks.steppers.saelens:saelens_standard",
    "dictionary_learning": "benchmarks.steppers.dictlearning:dictionary_learning_standard",
}
"""Called in the peers' environment with rows and settings; each returns `Trained`."""


def cache_folder() -> Path:
    """Where benchmarks keep what is costly to make: `$XDG_CACHE_HOME/sae-pipeline`, by default below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sae-pipeline"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except subprocess.CalledProcessError as error:
        last = "\n".join((error.stdout or "").splitlines()[-8:])
        raise UnavailableError(
            f"the peers' environment could not be made: `{' '.join(command)}` ended with {error.returncode}. Run again when the "
            f"package index can be reached; what was begun is begun anew. Its last lines:\n{last}"
        ) from None


def environment() -> Path:
    """The Python interpreter of the peers' environment, which is made first where it is missing (about 2 minutes, 1.5 GB).

    Its folder is named by the digest of the pinned versions, so a changed pin makes a new one; `complete` in it is written last.
    Raises `UnavailableError` where pip fails.
    """
    digest = hashlib.sha256((TORCH + sys.version + LOCK.read_text(encoding="utf-8")).encode()).hexdigest()[:12]
    folder = cache_folder() / f"peers-{digest}"
    python = folder / "bin" / "python"
    with _locked(folder.with_suffix(".lock")):
        if not (folder / "complete").exists():
            print(f"making the peers' environment in {folder}", file=sys.stderr)
            _run(sys.executable, "-m", "venv", "--clear", str(folder))
            pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
            _run(*pip, TORCH)
            _run(*pip, "--no-deps", "--requirement", str(LOCK))
            (folder / "complete").touch()
    return python


def train(peer: str, rows: Tensor, *, threads: int = 2, **settings: Any) -> Trained:
    """Train `peer`'s L1 dictionary ("saelens" or "dictionary_learning") on `rows` [row, d_mlp] float32, in its environment.

    `settings`: steps, width, l1, lr, batch_size, seed, and the peer's own options (see its function in `benchmarks/steppers`).
    Batches are those of `batches(rows, batch_size, seed)`. Raises `UnavailableError` where the environment cannot be made and
    `subprocess.CalledProcessError` where the training fails (its output stands on stderr).
    """
    if peer not in TRAINERS:
        raise ValueError(f"no peer '{peer}'; there are {', '.join(TRAINERS)}")
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "rows.safetensors"), Path(folder, "trained.safetensors")
        save_file({"rows": rows.contiguous()}, given)
        command = [str(environment()), "-m", "benchmarks.train_peer", TRAINERS[peer], str(given), str(made), json.dumps(settings)]
        subprocess.run(command, check=True, cwd=ROOT, env=child_environment(threads), stdout=sys.stderr)
        tensors = load_file(made)
    return Trained(tied=bool(tensors.pop("tied")), **tensors)


def child_environment(threads: int) -> dict[str, str]:
    """This process's environment with `threads` for every library that has threads, and no network."""
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    return {**os.environ, **counts, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "PYTHONDONTWRITEBYTECODE": "1"}
