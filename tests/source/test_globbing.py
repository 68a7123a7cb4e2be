"""A glob leaves nothing out that cannot be looked at."""

import os
from pathlib import Path

import pytest

from sae.source.globbing import files_of


def made(folder: Path) -> Path:
    for name in ("a/b/1.txt", "a/2.txt", "3.txt", "a/4.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    (folder / "linked.txt").symlink_to(folder / "3.txt")
    return folder


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.txt", ["3.txt", "linked.txt"]),
        ("**/*.txt", ["3.txt", "a/2.txt", "a/b/1.txt", "linked.txt"]),
        ("*/*/1.txt", ["a/b/1.txt"]),
        ("a/4.md", ["a/4.md"]),
        ("a/5.md", []),
        ("c/*", []),
    ],
)
def test_files_that_match(tmp_path, monkeypatch, pattern, found):
    folder = made(tmp_path)
    assert files_of(str(folder / pattern)) == [str(folder / name) for name in found]
    monkeypatch.chdir(folder)
    assert files_of(pattern) == found


@pytest.mark.parametrize(
    ("pattern", "call", "refused"),
    [("**/*.txt", "stat", "a/2.txt"), ("**/*.txt", "scandir", "a/b"), ("*/*/1.txt", "scandir", "a"), ("*.txt", "scandir", "")],
)
def test_what_cannot_be_looked_at_is_an_error(tmp_path, monkeypatch, pattern, call, refused):
    folder = made(tmp_path)
    real = getattr(os, call)

    def refuses(path, *args, **given):
        if not isinstance(path, int) and Path(path) == folder / refused:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **given)

    monkeypatch.setattr(os, call, refuses)
    with pytest.raises(PermissionError):
        files_of(str(folder / pattern))
