"""What every stage does alike: read params, name its artefacts, end with a clear message and a meaningful exit code.

`python -m pipelines.train --params ../params.yaml --set train.n_features=512` takes them from elsewhere, and some otherwise.
"""

import argparse
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from sae import artefact
from sae.config import override, read_params, read_section
from sae.device import to_device, unfilled
from sae.errors import ConfigError, SaeError, disk_told, in_one_line
from sae.provenance import Run

T = TypeVar("T")


def sections() -> tuple[str, ...]:
    """Of params.yaml, all that some stage reads. They stand in a file that no stage depends on: a new one re-runs nothing."""
    return tuple((Path(__file__).parent / "sections.txt").read_text(encoding="utf-8").split())


def check_name(name: str, where: str) -> None:
    """Raises `ConfigError`, begun with `where`, for a name that cannot be a folder's."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ConfigError(f"{where} {name!r}: a name of letters, digits, _ . and - (it becomes a folder under data/)")


OURS_IN_DATA = ("corpus", "tokens")
OURS_BESIDE_DICTIONARIES = ("transformer", "activations", "sweep")
"""Folders of the pipeline's own: data/corpus and so on, data/A/transformer and so on."""
MOST_THREADS = 1024


def check_free(name: str, where: str, ours: tuple[str, ...]) -> None:
    """Raises `ConfigError`, begun with `where`, for a name that would make an artefact lie within one of `ours`. (Some file
    systems tell no capital letters.)"""
    if name.lower() in ours:
        raise ConfigError(f"{where} {name!r}: a folder of that name is the pipeline's own; take another than {', '.join(ours)}")
    if name.lower().endswith(".partial"):
        raise ConfigError(f"{where} {name!r}: what ends with .partial is an unfinished artefact, and is swept; take another name")


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
        check_free(self.transformer, "'transformer' =", OURS_IN_DATA)
        check_free(str(self.dictionary), "'dictionary' =", OURS_BESIDE_DICTIONARIES)
        if not 0 <= self.threads <= MOST_THREADS:
            raise ConfigError(f"'threads' = {self.threads}: must be 0 (torch's choice) or more, and at most {MOST_THREADS:,}")


class Stage:
    """One stage's view of the project: its params and the paths of all artefacts, relative to the working directory."""

    def __init__(self, name: str, params: dict[str, Any]):
        self.name, self.params = name, params
        for section in params:
            if section not in sections():
                raise ConfigError(f"params has a section '{section}' that no stage reads; there are {', '.join(sections())}")
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

    def locked(self) -> AbstractContextManager[None]:
        """Hold this stage of this dictionary for one process: what is made before a commit would be made twice, and by whoever is
        later put in the place of what is newer. Raises `LockedError`."""
        lock = Path("data") / ".locks" / f"{self.name}-{self.dictionary_id.replace('/', '-')}"
        with disk_told(f"making {lock.parent}"):
            artefact.make_parent(lock)
        return artefact.locked(lock, f"stage {self.name} of {self.dictionary_id} is being run")

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


def run_stage(
    name: str,
    main: Callable[[Stage], None],
    given: argparse.Namespace | None = None,
    *,
    alone: bool = True,
    goes_on: bool = False,
) -> None:
    """Run `main` as the stage `name`, with the command line's parameters or those `given` (by `stage_parser`); a `SaeError`, or
    an error of input and output, becomes one line on stderr and its exit code.

    A second process that runs the same stage is refused before any work, unless the stage says that it need not be `alone`. One
    that `goes_on` where it was stopped says so when it is."""
    given = given or stage_parser(name).parse_args()
    signal.signal(signal.SIGTERM, _stop)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to give the same bits twice
    try:
        with disk_told(f"running stage {name}"):
            stage = Stage(name, override(read_params(given.params), given.set))
            torch.use_deterministic_algorithms(True, warn_only=True)
            if stage.config.threads:
                torch.set_num_threads(stage.config.threads)
            with unfilled(), stage.locked() if alone else nullcontext():
                main(stage)
    except SaeError as error:
        warnings.simplefilter("ignore", RuntimeWarning)  # zarr's, of what it did not begin any more; they would follow the line
        print(f"{name}: {in_one_line(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as stop:
        code = 130 if isinstance(stop, KeyboardInterrupt) else stop.code
        if code in (130, 143):
            how = "run again, and it goes on with what is done" if goes_on else "run again to start this stage afresh"
            print(f"{name}: {'interrupted' if code == 130 else 'ended'}; nothing half-written is left, {how}", file=sys.stderr)
        sys.exit(code)


def _stop(*_: object) -> None:
    sys.exit(143)
