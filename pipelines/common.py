"""What every stage does alike: read params, name its artefacts, end with a clear message and a meaningful exit code.

`python -m pipelines.train --params ../params.yaml --set train.n_features=512` takes them from elsewhere, and some otherwise.
"""

import argparse
import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from sae import artefact
from sae.config import override, read_params, read_section
from sae.dictionary.base import to_device
from sae.errors import ConfigError, SaeError
from sae.provenance import Run

T = TypeVar("T")
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
    "interpret",
    "browser",
    "universality",
    "claims",
    "controls",
    "automata",
    "splitting",
)
SECTIONS = ("run", *STAGES, "judge", "wandb")
"""Of params.yaml: each stage's own, two that say how to run, and the judge of stage `interpret`."""


def check_name(name: str, where: str) -> None:
    """Raises `ConfigError`, begun with `where`, for a name that cannot be a folder's."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ConfigError(f"{where} {name!r}: a name of letters, digits, _ . and - (it becomes a folder under data/)")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Section `run`: which of possibly many this is, and where it computes."""

    transformer: str = "A"
    """Name of the transformer, a letter in the paper."""
    dictionary: str | int = "1"
    """Name of the dictionary: `1` makes it `A/1`."""
    device: str = "auto"
    """`auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1`. Not a dependency of any stage: changing it re-runs nothing."""
    several: bool = False
    """Whether this is one of several dictionaries of the project: then it has rows and figures of its own, in
    `data/A/1/activations` and `reports/A-1`, so that others can be trained on other rows (full/dvc.yaml)."""
    threads: int = 0
    """CPU threads; 0 leaves torch's own choice. Sums are ordered by it, so bits differ between thread counts."""

    bucket: str = ""
    """A URL (s3://, gs:// or az://) below which the harvest puts its store too, as `<bucket>/A/activations`, as under `data`; ""
    for none. Not a dependency of any stage."""

    def __post_init__(self) -> None:
        for name in ("transformer", "dictionary"):
            value = str(getattr(self, name))
            check_name(value, f"'{name}' =")
        if self.threads < 0:
            raise ConfigError(f"'threads' = {self.threads}: must be 0 (torch's choice) or more")


class Stage:
    """One stage's view of the project: its params and the paths of all artefacts, relative to the working directory."""

    def __init__(self, name: str, params: dict[str, Any]):
        self.name, self.params = name, params
        for section in params:
            if section not in SECTIONS:
                raise ConfigError(f"params has a section '{section}' that no stage reads; there are {', '.join(SECTIONS)}")
        self.config = read_section(params, "run", RunConfig)
        self.device = to_device(self.config.device)
        data, letter, number = Path("data"), self.config.transformer, str(self.config.dictionary)
        self.corpus, self.tokens = data / "corpus", data / "tokens"
        owner = f"{letter}/{number}" if self.config.several else letter
        self.transformer, self.activations = data / letter / "transformer", data / owner / "activations"
        self.dictionary, self.features = data / letter / number / "dictionary", data / letter / number / "features"
        self.browser = data / letter / number / "browser"
        self.logs, self.all_reports = Path("logs"), Path("reports")
        self.reports = self.all_reports / f"{letter}-{number}" if self.config.several else self.all_reports
        self.transformer_id, self.dictionary_id = letter, f"{letter}/{number}"
        bucket = self.config.bucket.rstrip("/")
        self.activations_url = f"{bucket}/{owner}/activations" if bucket else None

    def section(self, name: str, cls: type[T]) -> T:
        """A section of params.yaml as its dataclass."""
        return read_section(self.params, name, cls)

    def run(self, kind: str, config: Any, *, id: str = "", parents: tuple[Path, ...] = (), **facts: Any) -> Run:
        """The `Run` of an artefact made by this stage from `parents` with the dataclass `config`."""
        return Run(
            kind=kind,
            id=id,
            params=asdict(config),
            seed=getattr(config, "seed", None),
            parents={parent.as_posix(): artefact.digest(parent) for parent in parents},
            device=str(self.device),
            facts=facts,
        )


def stage_parser(name: str, description: str | None = None) -> argparse.ArgumentParser:
    """Of the command `python -m pipelines.<name>`, with what every stage takes."""
    parser = argparse.ArgumentParser(prog=f"python -m pipelines.{name}", description=description)
    parser.add_argument("--params", default="params.yaml", metavar="PATH", help="the file of parameters")
    parser.add_argument(
        "--set", default=[], action="append", metavar="SECTION.KEY=VALUE", help="a parameter that is not as there"
    )
    return parser


def run_stage(name: str, main: Callable[[Stage], None], given: argparse.Namespace | None = None) -> None:
    """Run `main` as the stage `name`, with the command line's parameters or those `given` (by `stage_parser`); a `SaeError`
    becomes one line on stderr and its exit code."""
    given = given or stage_parser(name).parse_args()
    _die_with_dvc()
    signal.signal(signal.SIGTERM, _stop)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to give the same bits twice
    try:
        stage = Stage(name, override(read_params(given.params), given.set))
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # else each new tensor is filled with NaN first
        if stage.config.threads:
            torch.set_num_threads(stage.config.threads)
        main(stage)
    except SaeError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; nothing half-written is left, run again to start this stage afresh", file=sys.stderr)
        sys.exit(130)


def _stop(*_: object) -> None:
    sys.exit(143)


SHELLS = ("sh", "dash", "bash", "zsh", "ash", "ksh")


def _die_with_dvc() -> None:
    """Under `dvc repro` on Linux, end when DVC is killed: it would leave this process running beside the next attempt.

    DVC runs a stage through a shell. One that replaces itself by the stage (bash) makes DVC the parent, whose death the kernel
    tells; one that stays between (dash) does not die with DVC, so its own parent is watched."""
    if "DVC_STAGE" not in os.environ or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    shell = os.getppid()
    if Path(f"/proc/{shell}/comm").read_text().strip() in SHELLS:
        threading.Thread(target=_watch, args=(shell, _parent_of(shell)), daemon=True).start()


def _watch(shell: int, dvc: int | None) -> None:
    while _parent_of(shell) == dvc:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)


def _parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None
