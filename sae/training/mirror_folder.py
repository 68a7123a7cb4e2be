"""What a run and its W&B mirror (`sae.training.mirror`) tell one another: small files in a folder beside the run's log."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from sae import artefact
from sae.errors import StoreError


@dataclass(frozen=True, kw_only=True)
class MirroredRun:
    """`run.json`: all that the mirror, or `sae sync` days later, has to know of the run."""

    id: str
    """W&B's id of the run. Chosen here, so that the run's place is known without asking a server."""
    name: str
    params: dict[str, Any]
    mode: Literal["offline", "online", "disabled"]
    """A run that is `disabled` has no mirror."""
    project: str
    entity: str | None
    directory: str
    timeout: float
    """Seconds that one attempt to reach the server may take."""

    @property
    def where(self) -> str:
        if self.mode == "offline":
            return f"{Path(self.directory, 'wandb')}/offline-run-*-{self.id}"
        return "/".join(part for part in (self.entity, self.project, "runs", self.id) if part)


class MirrorFolder:
    """`logs/A-1-train.mirror` for `logs/A-1-train.jsonl`."""

    def __init__(self, log: Path):
        self.log = log
        self.path = log.with_suffix(".mirror")
        self.output = self.path / "output.txt"
        """What the mirror and wandb print."""
        self._run, self._trouble = self.path / "run.json", self.path / "trouble.txt"

    def write_run(self, run: MirroredRun) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._trouble.unlink(missing_ok=True)
        _replace(self._run, json.dumps(asdict(run), default=str))

    def read_run(self) -> MirroredRun:
        """Raises `StoreError` where no run of this log was ever to be mirrored, or its record is damaged."""
        try:
            values = json.loads(self._run.read_text(encoding="utf-8"))
            return MirroredRun(**{field.name: values[field.name] for field in fields(MirroredRun)})
        except FileNotFoundError:
            raise StoreError(
                f"{self._run} is missing: {self.log} is no log of a run with 'wandb.mode' online or offline"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self._run} is damaged ({error!r}); W&B cannot be told of {self.log}") from None

    def write_trouble(self, text: str) -> None:
        """For the user: the run prints it. The empty string is the end of it."""
        _replace(self._trouble, text)

    def read_trouble(self) -> str:
        if not os.path.exists(self._trouble):  # some µs, and asked at every record
            return ""
        try:
            return self._trouble.read_text(encoding="utf-8")
        except OSError:
            return ""

    @contextmanager
    def lock(self, *, wait: bool) -> Iterator[None]:
        """One mirror a log: the second waits, or raises `LockedError`. The lock ends with the process that holds it."""
        with artefact.locked(self.path / "lock", f"{self.log} is being sent to W&B", wait=wait):
            yield


def _replace(path: Path, text: str) -> None:
    """At once, but not synced to the disk as `artefact.write_text` does it: no wait for a slow disk at a run's start."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
