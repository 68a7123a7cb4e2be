"""An artefact is whole and committed, or not there: whoever kills the writer, and whatever fills up."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from sae import artefact
from sae.artefact import digest, read_run, verify, write_text, writing
from sae.errors import DiskError, LockedError, StoreError
from sae.provenance import Run, sha256_file

RUN = Run(kind="tokens", code="test", versions={"python": "3"})


def write(path: Path, content: str = "content", run: Run = RUN) -> None:
    with writing(path, run) as draft:
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "data").write_text(content)


def names(path: Path) -> set[str]:
    return {file.name for file in path.iterdir() if not file.name.endswith(".lock")}


def child(script: str, *args: object) -> subprocess.Popen[str]:
    """A process that runs `script`, which prints `ready` where the test may go on."""
    text = "from sae.artefact import writing\nfrom sae.provenance import Run\nimport sys, time\n" + textwrap.dedent(script)
    command = [sys.executable, "-c", text, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


WRITER = """
    with writing(sys.argv[1], Run(kind="tokens")) as draft:
        (draft.path / "half").write_text("x" * 1000)
        print("ready", flush=True)
        time.sleep(60)
"""


def test_an_artefact_says_what_it_is_and_what_its_files_hold(tmp_path: Path) -> None:
    write(tmp_path / "a")
    run = read_run(tmp_path / "a", "tokens")
    assert run.kind == "tokens"
    assert run.files == {"sub/data": sha256_file(tmp_path / "a" / "sub" / "data")}
    verify(tmp_path / "a", run)
    assert names(tmp_path) == {"a"}
    assert digest(tmp_path / "a") == sha256_file(tmp_path / "a" / "run.json")


def test_the_run_can_be_told_more_while_writing(tmp_path: Path) -> None:
    with writing(tmp_path / "a", RUN) as draft:
        draft.run = Run(kind="tokens", facts={"n": 3})
    assert read_run(tmp_path / "a", "tokens").facts == {"n": 3}


def test_two_writings_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_new_artefact_replaces_the_old_one_whole(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with writing(tmp_path / "a", RUN) as draft:
        assert list(draft.path.iterdir()) == []
        (draft.path / "other").write_text("new")
    assert names(tmp_path / "a") == {"other", "run.json"}


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(143), OSError("x")])
def test_an_error_leaves_the_old_artefact_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    write(tmp_path / "a", "old")
    with pytest.raises(type(error)), writing(tmp_path / "a", RUN) as draft:  # noqa: PT012 - a file, then the error
        (draft.path / "half").write_text("new")
        raise error
    assert names(tmp_path) == {"a"}
    assert (tmp_path / "a" / "sub" / "data").read_text() == "old"


def test_a_killed_writer_leaves_a_partial_that_no_reader_takes_and_the_next_writer_sweeps(tmp_path: Path) -> None:
    with child(WRITER, tmp_path / "a") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    assert names(tmp_path) == {"a.partial"}
    with pytest.raises(StoreError, match=r"no tokens at .*; make it with: dvc repro"):
        read_run(tmp_path / "a", "tokens")
    with pytest.raises(StoreError, match="unfinished or foreign"):
        read_run(tmp_path / "a.partial", "tokens")
    write(tmp_path / "a")
    assert names(tmp_path) == {"a"}
    assert names(tmp_path / "a") == {"sub", "run.json"}


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    with child(WRITER, tmp_path / "a") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(LockedError, match=f"being written by process {process.pid}") as caught:
            write(tmp_path / "a")
        assert (tmp_path / "a.partial" / "half").exists()  # the first one's work is untouched
        assert caught.value.exit_code == 75
        write(tmp_path / "b")  # another artefact is free
        process.kill()
    write(tmp_path / "a")
    assert names(tmp_path) == {"a", "b"}


def test_a_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="x"), writing(tmp_path / "a", RUN):
            raise ValueError("x")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["sha256_file", "sync"])
def test_a_disk_that_fills_up_during_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, where: str) -> None:
    write(tmp_path / "a", "old")

    def full(path: Path) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(artefact, where, full)
    with pytest.raises(DiskError, match=r"no space left while writing .*a; free some"):
        write(tmp_path / "a", "new")
    assert names(tmp_path) == {"a"}
    assert (tmp_path / "a" / "sub" / "data").read_text() == "old"


def test_a_file_too_large_for_the_disk(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for the full disk: the system refuses the write itself, at any byte."""
    script = """
        import resource
        from sae.errors import DiskError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            with writing(sys.argv[1], Run(kind="tokens", code="test")) as draft:
                (draft.path / "large").write_bytes(b"x" * 1_000_000)
        except DiskError as error:
            sys.exit(error.exit_code)
    """
    with child(script, tmp_path / "a") as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 74, errors
    assert names(tmp_path) == set()


def test_another_error_of_the_system_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), writing(tmp_path / "a", RUN):
        raise PermissionError(errno.EACCES, "no")


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "a")
    file = tmp_path / "a" / "sub" / "data"
    match damage:
        case "flip":
            file.write_text("cOntent")
        case "cut":
            file.write_text("conten")
        case "remove":
            file.unlink()
    run = read_run(tmp_path / "a", "tokens")
    with pytest.raises(StoreError, match=r"sub/data is (damaged: sha256|missing)"):
        verify(tmp_path / "a", run)
    verify(tmp_path / "a", run, only=("another",))


def test_a_run_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a")
    file = tmp_path / "a" / "run.json"
    good = json.loads(file.read_text())
    changed = json.dumps(good | {"seed": 8}, indent=1, sort_keys=True) + "\n"
    del good["sha256"]
    cases = [
        (changed.encode(), "its own sha256 differs"),
        (b"{", "is damaged"),
        (b"[1]", "is damaged"),
        (b"\xff", "is damaged"),
        (json.dumps(good | {"unknown": 1}).encode(), "is damaged"),
        (json.dumps(good | {"schema": 99}).encode(), "has schema 99, this version reads up to"),
        (json.dumps(good | {"kind": "corpus"}).encode(), "is a corpus, not a tokens"),
    ]
    for content, message in cases:
        file.write_bytes(content)
        with pytest.raises(StoreError, match=message):
            read_run(tmp_path / "a", "tokens")


def test_nothing_in_a_run_depends_on_the_clock_or_the_place(tmp_path: Path) -> None:
    write(tmp_path / "a", run=Run(kind="tokens"))
    text = (tmp_path / "a" / "run.json").read_text()
    assert str(tmp_path) not in text
    assert read_run(tmp_path / "a", "tokens").to_json() == text


def test_write_text_replaces_a_file_or_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sub" / "metrics.json"
    write_text(file, "old\n")
    write_text(file, "new é\n")
    assert file.read_text(encoding="utf-8") == "new é\n"
    assert names(tmp_path / "sub") == {"metrics.json"}

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(artefact, "sync", full)
    with pytest.raises(OSError, match="full"):
        write_text(file, "newer\n")
    assert file.read_text(encoding="utf-8") == "new é\n"


def test_locks_say_who_holds_them_and_can_be_waited_for(tmp_path: Path) -> None:
    """One helper behind artefacts, checkpoints and mirrors."""
    path, events = tmp_path / "lock", []

    def second() -> None:
        with artefact.locked(path, "it is being used", wait=True):
            events.append("second")

    with artefact.locked(path, "it is being used"):
        with pytest.raises(LockedError, match=f"^it is being used by process {os.getpid()}; wait for it, or end it$"):
            artefact.locked(path, "it is being used").__enter__()
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.1)
        events.append("first")
    waiting.join(300)
    assert events == ["first", "second"]
