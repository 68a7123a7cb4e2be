"""Nothing of anybody else's is replaced or swept away: what may lie where an artefact is written.

An artefact lists its files in its record, so a file that its folder holds beside them is somebody's.
Until a folder has its record it carries a mark, which becomes the record at the commit, and which the
record becomes again before the folder is removed. So a folder with neither is none of ours, whatever
its name.
"""

import json
import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from sae.errors import StoreError
from sae.provenance import SCHEMA

RUN_FILE = "run.json"
"""The record."""
MARK = "run.json.partial"
"""In a folder that is being written, or removed."""
ALSO = {RUN_FILE, "url", ".DS_Store"}
"""What no record lists: itself, a store's link to its bucket, and what macOS leaves in any folder."""
MOVE_IT = "move it, or remove it, and run again"


def refuse(target: Path, kinds: Collection[str], advice: str = MOVE_IT) -> None:
    """Raises `StoreError`, with `advice`, unless an artefact may take the place `target`.

    It may where nothing is, or an empty folder, or an artefact of one of `kinds` with nothing beside
    its own files. These may be damaged. One of a newer version is not replaced."""
    if not target.exists():
        return
    if not target.is_dir():
        raise StoreError(f"{target} is a file where an artefact's folder must be; {advice}")
    if not any(target.iterdir()):
        return
    kind, (record, names) = next(iter(kinds)), _found(target)
    if why := _foreign(record, kinds):
        raise StoreError(f"{target} holds something else than a {kind}, and stays as it is ({why}); {advice}")
    assert record is not None, "of ours"
    strangers = sorted(names - record["files"].keys() - ALSO)
    if strangers:
        raise StoreError(f"{target} holds {strangers[0]}, which is no part of its {kind}, and stays as it is; {advice}")


def refuse_draft(folder: Path, kind: str, advice: str = MOVE_IT) -> None:
    """Raises `StoreError` where `folder` is there and was not made for what it is needed for: a `kind`
    is written in it first, or put aside in it for a moment."""
    if not folder.exists() or is_ours(folder):
        return
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [folder.name]
    if found:
        raise StoreError(f"{folder} holds {found[0]}, and is where a {kind} is written first; {advice}")


def is_ours(folder: Path) -> bool:
    """Whether it is an artefact, or was made to become one."""
    mark = folder / MARK
    return mark.is_file() or _record(folder) is not None or mark.is_file()  # the one becomes the other


def mark(folder: Path) -> None:
    """Make the folder of a draft."""
    folder.mkdir()
    (folder / MARK).touch()


def unmake(folder: Path) -> None:
    """Let an artefact that is to be removed look whole to nobody any more, and still be ours."""
    with suppress(OSError):
        os.replace(folder / RUN_FILE, folder / MARK)


def remove(folder: Path) -> None:
    """Remove a folder of ours, if it is there. Its mark goes last: who is killed meanwhile leaves one
    that is still known. Raises `OSError`."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARK:
            path.unlink()
    shutil.rmtree(folder)


def _found(folder: Path) -> tuple[dict[str, Any] | None, set[str]]:
    """The record, and what is there; of one artefact, though another process may replace it meanwhile."""
    while True:
        record, names = _record(folder), _names(folder)
        if _record(folder) == record:
            return record, names


def _foreign(record: dict[str, Any] | None, kinds: Collection[str]) -> str:
    """Why an artefact with this record is not to be replaced; "" where it may be."""
    if record is None:
        return f"it has no {RUN_FILE} of ours"
    if record["kind"] not in kinds:
        return f"it is of kind {record['kind']!r}"
    if record["schema"] > SCHEMA:
        return f"it is of schema {record['schema']}, this version writes {SCHEMA}: update the package"
    return ""


def _record(folder: Path) -> dict[str, Any] | None:
    """What the record says, though it may be damaged; None where it is none of ours."""
    try:
        found = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
    types = {"kind": str, "files": dict, "schema": int}
    is_one = isinstance(found, dict) and all(isinstance(found.get(name), of) for name, of in types.items())
    return found if is_one else None


def _names(folder: Path) -> set[str]:
    """Of all files in it and its folders, and of links, which are not followed."""

    def refuse_unread(error: OSError) -> None:
        raise error

    found = set()
    for at, folders, files in os.walk(folder, onerror=refuse_unread):
        links = [name for name in folders if os.path.islink(os.path.join(at, name))]
        found |= {Path(at, name).relative_to(folder).as_posix() for name in (*files, *links)}
    return found
