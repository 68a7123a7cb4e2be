"""Between the lives of a stage: what it found, what it may leave, and what must be there in the end."""

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from sae import artefact
from sae.errors import DiskError, StoreError
from sae.provenance import Run
from tests.faults.stages import OUTPUTS, Life, Stages, make_project


class Lost(AssertionError):  # noqa: N818 - what a harness found
    """What stood is gone, half of something stands, or what came out in the end is not what comes out undisturbed."""


class Rounds:
    """Lives of stages in copies of `golden`, a project in which all are done."""

    def __init__(self, stages: Stages, golden: Path, work: Path):
        self._stages, self.golden, self._work = stages, golden, work
        self._outputs = {
            stage: [output for output in outputs if (golden / output).exists()] for stage, outputs in OUTPUTS.items()
        }
        self._n_calls: dict[tuple[str, bool, bool], int] = {}
        self.seen: Counter[str] = Counter()

    def n_calls(self, stage: str, *, old: bool, reads: bool) -> int:
        """File calls of an undisturbed life."""
        key = (stage, old, reads)
        if key not in self._n_calls:
            self._begin(stage, old)
            life = self._stages.live(self._work, stage, at=-1, reads=reads)
            if life.code != 0:
                raise Lost(f"{stage}: undisturbed it ends with {life.code}: {life.errors}")
            self._n_calls[key] = life.n_calls
        return self._n_calls[key]

    def kill(self, stage: str, at: int, *, old: bool) -> None:
        """Kill `stage` at its file call `at`, then let it run. Raises `Lost`."""
        self._begin(stage, old)
        life = self._stages.live(self._work, stage, at=at)
        if life.code != -9:
            raise Lost(f"{stage} at {at}: not killed, but ended with {life.code}: {life.errors}")
        self.seen["kills"] += 1
        self._end(stage, f"{stage}, killed at {at}", old)

    def fail(self, stage: str, at: int, error: int, *, old: bool, stays: bool, reads: bool) -> Life:
        """Let the file call `at` of `stage` fail, then let it run undisturbed. Raises `Lost` where it ends otherwise than well or
        with a line that tells of the disk."""
        self._begin(stage, old)
        life = self._stages.live(self._work, stage, at=at, error=error, stays=stays, reads=reads)
        what = f"{stage} at {at}, {os.strerror(error)} of {life.last}{' for good' if stays else ''}"
        told = life.errors.strip().splitlines()
        if "Traceback" in life.errors or "Exception ignored" in life.errors:
            raise Lost(f"{what}: a traceback: {life.errors}")
        if life.code not in (0, DiskError.exit_code):
            raise Lost(f"{what}: ended with {life.code}: {life.errors}")
        if life.code != 0 and not (told and told[-1].startswith(f"{stage}: ")):
            raise Lost(f"{what}: ended with {life.code}, and said {life.errors!r}")
        self.seen[f"exit code {life.code}"] += 1
        self._end(stage, what, old)
        return life

    def _begin(self, stage: str, old: bool) -> None:
        """A fresh copy, in which the stage's outputs are `old` ones, or not there."""
        shutil.rmtree(self._work, ignore_errors=True)
        hidden = shutil.ignore_patterns(".*")
        shutil.copytree(self.golden, self._work, copy_function=os.link, ignore=hidden)
        for output in self._outputs[stage]:
            path = self._work / output
            if old:
                make_old(path)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _end(self, stage: str, what: str, old: bool) -> None:
        """Look at what a life left, then let another finish."""
        for output in self._outputs[stage]:
            path = self._work / output
            if path.exists():
                self._look(path, output, what)
            elif old:
                raise Lost(f"{what}: {output} is gone")
        life = self._stages.live(self._work, stage)
        if life.code != 0:
            raise Lost(f"{what}: run again it ends with {life.code}: {life.errors}")
        different = sorted(difference(self.golden, self._work))
        if different:
            raise Lost(f"{what}: run again it leaves other files: {different}")

    def _look(self, path: Path, output: str, what: str) -> None:
        golden = self.golden / output
        if path.is_file():
            if path.read_bytes() not in (golden.read_bytes(), OLD):
                raise Lost(f"{what}: {output} is neither the old one nor the new one")
            return
        try:
            run = Run.from_json((path / artefact.RUN_FILE).read_text(encoding="utf-8"))
            artefact.verify(path, run)
        except (OSError, ValueError, StoreError) as error:
            raise Lost(f"{what}: half of {output} stands: {error}") from None
        if run.code != OLD_CODE and artefact.digest(path) != artefact.digest(golden):
            raise Lost(f"{what}: {output} is whole, but neither the old one nor the new one")


def make_rounds(stages: Stages, names: Iterable[str], folder: Path) -> Rounds:
    """Over a new project in which the stages `names`, in their order, are done."""
    golden = make_project(folder / "golden")
    for stage in names:
        life = stages.live(golden, stage)
        assert life.code == 0, f"{stage}: {life.errors}"
    return Rounds(stages, golden, folder / "work")


OLD, OLD_CODE = b"old\n", "old"


def make_old(path: Path) -> None:
    """An output of an earlier run: whole, and another."""
    if path.is_file():
        path.unlink()  # a link to the golden one
        path.write_bytes(OLD)
        return
    record = path / artefact.RUN_FILE
    run = Run.from_json(record.read_text(encoding="utf-8"))
    record.unlink()
    record.write_text(dataclasses.replace(run, code=OLD_CODE).to_json(), encoding="utf-8")


def files(folder: Path) -> Iterator[str]:
    """All that stages left, but locks and logs."""
    for file in folder.rglob("*"):
        name = file.relative_to(folder)
        if not file.is_dir() and not any(part.startswith(".") for part in name.parts) and name.parts[0] != "logs":
            yield name.as_posix()


def difference(one: Path, other: Path) -> set[str]:
    """Files that are not the same in two projects, or not in both."""
    here, there = set(files(one)), set(files(other))
    return (here ^ there) | {name for name in here & there if (one / name).read_bytes() != (other / name).read_bytes()}
