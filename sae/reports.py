"""Reports: what a stage found out, a folder of `reports/` that is committed as one: figures, words, plots, and the digests of
all that it was made from.

Whoever shows a figure compares these with what lies there now, since a figure belongs to what it stands beside: after `git
checkout` and `dvc checkout` of another run it may be another's.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from sae import artefact
from sae.errors import StoreError
from sae.provenance import Run
from sae.shown import json_text

REPORTS = "reports"
"""The folder, beside `data`."""


class NoReportError(StoreError):
    """There is no such report."""


class StaleReportError(StoreError):
    """A report was made from something else than what lies there now."""


class Report(NamedTuple):
    """One whose files are what was committed, and which was made from what lies there now."""

    folder: Path
    run: Run

    def figures(self, name: str) -> dict[str, Any]:
        """The content of `<name>.json`. Raises `NoReportError` where an earlier version wrote none into the folder."""
        if f"{name}.json" not in self.run.files:
            raise NoReportError(f"{self.folder} holds no {name}.json: an earlier version wrote it elsewhere; make it again")
        found: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        return found

    def words(self) -> str:
        """What the study told, without the last line's end."""
        if artefact.TOLD not in self.run.files:
            return ""
        return (self.folder / artefact.TOLD).read_text(encoding="utf-8", errors="replace").rstrip("\n")

    def images(self) -> tuple[Path, ...]:
        """The plots, sorted by name."""
        return tuple(sorted(self.folder / name for name in self.run.files if name.endswith(".png")))


def open_report(folder: Path, kind: str, root: Path, *, made_by: str, of: Path | None = None) -> Report:
    """The report in `folder`; `root` is what its parents' paths are relative to, and `made_by` the command that makes it again.

    Raises `NoReportError` where there is none, `StaleReportError` where it was made from another artefact than the one that
    lies there now, or `of` (an artefact) is none of those that it was made from, and `StoreError` where a file of it is not
    what was committed. What it was made from may have been removed since."""
    if not folder.is_dir():
        raise NoReportError(f"no {kind} at {folder}; make it with: {made_by}")
    run = artefact.read_run(folder, kind, made_by=made_by)
    if of is not None and artefact.digest(of) not in run.parents.values():
        raise StaleReportError(f"what lies in {folder} is not of {of} as it is now; run: {made_by}")
    check_origins(folder, run, root, made_by)
    artefact.verify(folder, run)
    return Report(folder, run)


def check_origins(folder: Path, run: Run, root: Path, made_by: str) -> None:
    """Raises `StaleReportError` where one of the parents of `run` is another now, or is itself a report that is stale."""
    for name, digest in run.parents.items():
        parent = root / name
        if not (parent / artefact.RUN_FILE).is_file():
            continue
        if artefact.digest(parent) != digest:
            raise StaleReportError(f"what lies in {folder} was made from another {name} than the one there now; run: {made_by}")
        if Path(name).parts[0] == REPORTS:
            check_origins(parent, artefact.read_run(parent, _kind(parent)), root, made_by)


def _kind(folder: Path) -> str:
    """The kind of a report, which is its folder's name but for the evaluation."""
    return "evaluation" if folder.name == "evaluate" else folder.name


def write_figures(folder: Path, name: str, figures: Any) -> None:
    """Put `figures` into the draft `folder` as `<name>.json`, rounded, in an order of their own."""
    (folder / f"{name}.json").write_text(json_text(rounded(figures)), encoding="utf-8")


def rounded(value: Any) -> Any:
    """Six significant digits: more than the standard errors give, fewer than the last bits of another machine. NaN is null."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
