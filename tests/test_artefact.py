"""An artefact is whole and committed, or not there: whoever kills the writer, and whatever fills up."""

import errno
import hashlib
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

from sae import artefact, exchange, foreign
from sae.artefact import digest, read_run, verify, write_text, writing
from sae.errors import DiskError, LockedError, StoreError
from sae.opened import steadily
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
        assert names(draft.path) == {foreign.MARK}
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


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EIO, "the disk fails: see the system's log"),
        (errno.EROFS, "can only be read"),
        (errno.EACCES, "change the permissions"),
        (errno.ENAMETOOLONG, "choose a shorter one"),
        (errno.EMFILE, "raise `ulimit -n`"),
        (errno.EISDIR, "see to it, and run again"),
    ],
)
def test_what_else_the_system_refuses_is_told_with_what_to_do(tmp_path: Path, code: int, advice: str) -> None:
    words = r"^input or output failed while writing .*a: \[Errno \d+\].*; "
    with pytest.raises(DiskError, match=words) as caught, writing(tmp_path / "a", RUN):
        raise OSError(code, os.strerror(code))
    assert advice in str(caught.value)
    assert caught.value.exit_code == 74


@pytest.mark.parametrize("error", [ConnectionRefusedError(errno.ECONNREFUSED, "no"), TimeoutError("late")])
def test_a_network_is_no_disk(tmp_path: Path, error: OSError) -> None:
    with pytest.raises(type(error)), writing(tmp_path / "a", RUN):
        raise error


def test_names_that_no_file_system_takes(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 300)
    for work in (lambda: write(path), lambda: write_text(path, "x"), lambda: read_run(path, "tokens")):
        with pytest.raises(DiskError, match="a name is too long"):
            work()


def test_files_that_may_not_be_read_are_refused_and_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a")
    run = read_run(tmp_path / "a", "tokens")

    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(artefact, "sha256_file", refused)
    with pytest.raises(DiskError, match=r"while reading .*sub/data: .*change the permissions"):
        verify(tmp_path / "a", run)
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(DiskError, match="while reading"):
        read_run(tmp_path / "a", "tokens")


def test_a_folder_that_cannot_be_listed_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def refuses(path: str | Path | int) -> object:
        if not isinstance(path, int) and Path(path).name == "sub":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuses)
    with pytest.raises(DiskError, match=r"Permission denied: .*sub"):
        write(tmp_path / "a")
    assert names(tmp_path) == set()


def cannot_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "exchange", lambda one, other: False)


def test_two_folders_change_places_in_one_step(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not exchange.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot")
    assert names(tmp_path / "a") == {"b"}
    assert names(tmp_path / "b") == {"a"}
    with pytest.raises(FileNotFoundError):
        exchange.exchange(tmp_path / "a", tmp_path / "c")


def test_an_old_one_is_never_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before every rename, and after it, one stands."""
    write(tmp_path / "a", "old")
    replace = os.replace

    def watched(source: object, target: object) -> None:
        replace(source, target)  # type: ignore[arg-type]
        assert (tmp_path / "a").is_dir()

    monkeypatch.setattr(os, "replace", watched)
    write(tmp_path / "a", "new")
    assert (tmp_path / "a/sub/data").read_text() == "new"
    assert names(tmp_path) == {"a"}


@pytest.mark.parametrize("next_is", ["reader", "writer", "failing writer"])
def test_where_two_renames_are_needed_what_was_put_aside_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, next_is: str
) -> None:
    cannot_exchange(monkeypatch)
    write(tmp_path / "a", "old")
    os.rename(tmp_path / "a", tmp_path / "a.old.partial")  # where a kill between the two leaves it
    if next_is == "reader":
        verify(tmp_path / "a", read_run(tmp_path / "a", "tokens"))
    elif next_is == "writer":
        with writing(tmp_path / "a", RUN):
            assert (tmp_path / "a/sub/data").read_text() == "old"
        return
    else:
        with pytest.raises(KeyboardInterrupt), writing(tmp_path / "a", RUN):
            raise KeyboardInterrupt
    assert (tmp_path / "a/sub/data").read_text() == "old"
    assert names(tmp_path) == {"a"}


def test_a_disk_that_fills_up_between_two_renames_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cannot_exchange(monkeypatch)
    write(tmp_path / "a", "old")
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(source).name == "a.partial":
            raise OSError(errno.ENOSPC, "full")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DiskError):
            write(tmp_path / "a", "new")
    assert (tmp_path / "a/sub/data").read_text() == "old"
    assert names(tmp_path) == {"a"}


def test_what_is_half_removed_never_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(foreign, "remove", lambda folder: None)
        artefact.discard(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "a.old.partial")
    with pytest.raises(StoreError, match="no tokens at"):
        read_run(tmp_path / "a", "tokens")


def test_a_reader_waits_for_a_writer_between_two_renames(tmp_path: Path) -> None:
    write(tmp_path / "a")
    os.rename(tmp_path / "a", tmp_path / "a.old.partial")
    with artefact.locked(artefact.lock_of(tmp_path / "a"), "a is being written"):
        writer = threading.Timer(0.1, os.rename, (tmp_path / "a.old.partial", tmp_path / "a"))
        writer.start()
        assert read_run(tmp_path / "a", "tokens").kind == "tokens"
        writer.join()


@pytest.mark.parametrize("system", ["exchanges", "does not"])
def test_readers_beside_a_writer_find_the_old_one_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    if system == "does not":
        cannot_exchange(monkeypatch)
    write(tmp_path / "a", "0")
    done = threading.Event()

    def keep_writing() -> None:
        for i in range(1, 60):
            write(tmp_path / "a", str(i))
        done.set()

    def read() -> tuple[str, str]:
        run = read_run(tmp_path / "a", "tokens")
        verify(tmp_path / "a", run)
        return run.files["sub/data"], (tmp_path / "a/sub/data").read_text()

    writer = threading.Thread(target=keep_writing)
    writer.start()
    n_read = 0
    while not done.is_set() or n_read < 5:
        stated, text = steadily(tmp_path / "a", read)
        assert stated == hashlib.sha256(text.encode()).hexdigest()
        n_read += 1
    writer.join()


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    """A folder of a larger disk, say, that need not be there yet."""
    large, link = tmp_path / "large", tmp_path / "a"
    large.mkdir()
    link.symlink_to(large / "b")
    for content in ("old", "new"):
        write(link, content)
        assert link.is_symlink()
        assert (large / "b/sub/data").read_text() == content
        assert names(large) == {"b"}
    assert names(tmp_path) == {"large", "a"}
    os.rename(large / "b", large / "b.old.partial")
    assert read_run(link, "tokens").kind == "tokens"


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
