"""Where an artefact came from: `Run`, the content of the `run.json` beside it.

Nothing in a `Run` depends on the clock or on chance, so two runs of the same params on the same machine write the same bytes.
"""

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sae import __version__
from sae.shown import json_text

SCHEMA = 1
"""Version of run.json; raised when a reader of the old one would misunderstand the new one."""

_PACKAGES = ("torch", "transformer_lens", "zarr", "tokenizers", "datasets", "numpy", "numba", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Identity of one artefact."""

    kind: str
    """What it is: corpus, tokens, transformer, activations, dictionary, features ..."""
    id: str = ""
    """The paper's way of naming: `A` a transformer, `A/1` a dictionary of it, `A/1/3450` a feature."""
    params: dict[str, Any] = field(default_factory=dict)
    """The params section (or sections) that it was made with."""
    seed: int | None = None
    parents: dict[str, str] = field(default_factory=dict)
    """For each artefact that it was made from: sha256 of that one's run.json (which holds the digests of its files)."""
    code: str = field(default_factory=lambda: code_revision())
    """git revision of the code, with `+` where the tree had changes; "unknown" outside a repository."""
    versions: dict[str, str] = field(default_factory=lambda: versions())
    processor: dict[str, str | int] = field(default_factory=lambda: processor())
    """What computed, as far as the last bits of a sum depend on it (`processor`); empty where an earlier version wrote it."""
    device: str = "cpu"
    facts: dict[str, Any] = field(default_factory=dict)
    """What the stage found out and readers want without opening the data: counts, losses, sizes."""
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of every other file of the artefact, by path relative to it. Filled in at the commit."""
    schema: int = SCHEMA

    def to_json(self) -> str:
        """With a digest of itself, `sha256`: of this very text without that line's entry."""
        fields = dataclasses.asdict(self)
        return json_text({**fields, "sha256": hashlib.sha256(json_text(fields).encode()).hexdigest()})

    @classmethod
    def from_json(cls, text: str) -> "Run":
        """Raises `ValueError` (pydantic's, or JSON's) or `TypeError` for text that is no record."""
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("it is no JSON object")
        if "sha256" in fields:  # records of before 2026-11-21 have none
            dump = next((each for each in (json_text, _dump_before) if each(fields) == text), None)
            stated = fields.pop("sha256")
            if dump is None or hashlib.sha256(dump(fields).encode()).hexdigest() != stated:
                raise ValueError("it is not what was written: its own sha256 differs")
        fields.setdefault("processor", {})
        cls(**fields)  # refuses unknown keys, which the adapter would drop
        return TypeAdapter(cls).validate_python(fields)


def _dump_before(fields: dict[str, Any]) -> str:
    """As versions wrote it that let all but control characters through."""
    return json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version(), "sae-pipeline": __version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> dict[str, str | int]:
    """What torch and numba make of this machine's processor, and torch's threads: on another one the order of a sum is another,
    and so are its last bits."""
    import torch  # these two take seconds and a tenth, and to read a record needs neither
    from llvmlite import binding

    target = os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    return {
        "torch": torch.backends.cpu.get_cpu_capability(),
        "numba": f"{target} with {features}" if features else target,
        "threads": torch.get_num_threads(),
    }


def changed(before: Run, now: Run) -> list[str]:
    """What is another in `now` of all that decides the last bits, in words: processor, threads, device, versions, code."""
    old = {**{f"processor ({key})": value for key, value in before.processor.items()}, **before.versions}
    new = {**{f"processor ({key})": value for key, value in now.processor.items()}, **now.versions}
    pairs = [(name, value, new.get(name, "unknown")) for name, value in old.items()]
    pairs += [("device", before.device, now.device), ("code", before.code, now.code)]
    return [f"{name} {was}, now {is_now}" for name, was, is_now in pairs if was != is_now]


def elsewhere(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Where work that was begun on the processor `before` goes on on `now`: what that means, in a line; "" where they are the
    same, or an earlier version recorded none. Threads are no matter: who goes on takes as many."""
    others = [f"{key} {before[key]}, now {now[key]}" for key in ("torch", "numba") if key in before and before[key] != now[key]]
    if not others:
        return ""
    return (
        f"it was begun on another processor ({'; '.join(others)}): the last bits of what is still to be computed differ from "
        "there, so the result is neither machine's; for the bits of one machine start afresh"
    )


def code_revision() -> str:
    """The git revision of this package's checkout, or "unknown"."""
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *args], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if git("ls-files", "--error-unmatch", "provenance.py") == "":
            return "unknown"
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(here), str(here.parent / "pipelines"))
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
