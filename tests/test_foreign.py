"""What is somebody else's stays, wherever an artefact is to be written, put aside or removed; what is ours makes way."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from pipelines.results import main as results
from pipelines.results import refuse_foreign as refuse_pictures
from pipelines.sweep import remove_others
from sae import artefact, foreign
from sae.errors import StoreError
from sae.features.part_store import remove_parts
from sae.provenance import SCHEMA, Run
from sae.storage.activations import ActivationStore
from sae.storage.ended import abandon
from sae.storage.layout import LIVE
from tests.support.activations import small_store

THEIRS = {
    "a repository": {".git/HEAD": "ref: refs/heads/main\n", "paper.tex": "years of work"},
    "own files": {"notes.txt": "years of work"},
    "another's record": {"run.json": '{"kind": "corpus", "lr": 0.1}'},
    "a deep record": {"run.json": "[" * 100_000},
    "a folder for a record": {"run.json/x": "years of work"},
}


def fill(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write(path, kind="corpus", text="text", id="", **options):
    with artefact.writing(path, Run(kind=kind, id=id, code="test", versions={}), **options) as draft:
        (draft.path / "sub").mkdir()
        (draft.path / "sub/data").write_text(text)


@pytest.mark.parametrize("end", ["", ".partial", ".old.partial"])
@pytest.mark.parametrize("files", THEIRS.values(), ids=THEIRS)
def test_theirs_stays_where_an_artefact_or_its_draft_would_lie(tmp_path, files, end):
    fill(tmp_path / f"corpus{end}", files)
    before = content(tmp_path)
    with pytest.raises(StoreError, match=r"corpus.* holds .*; move it, or remove it, and run again") as told:
        write(tmp_path / "corpus")
    assert "\n" not in str(told.value)
    assert content(tmp_path) == before


@pytest.mark.parametrize("files", THEIRS.values(), ids=THEIRS)
def test_theirs_stays_where_a_store_or_its_work_would_lie(tmp_path, files):
    for name in ("store", "store.partial", "store.old.partial"):
        folder = tmp_path / name.replace(".", "-")
        fill(folder / name, files)
        before = content(folder / name)
        with pytest.raises(StoreError, match="; move it, or remove it, and run again"):
            small_store(folder / "store")
        assert content(folder / name) == before


def test_what_came_while_the_artefact_was_made_stays(tmp_path):
    writing = artefact.writing(tmp_path / "corpus", Run(kind="corpus"))
    with pytest.raises(StoreError, match="holds something else than a corpus"), writing:
        fill(tmp_path / "corpus", THEIRS["own files"])
    assert content(tmp_path / "corpus") == {"notes.txt": b"years of work"}
    assert not (tmp_path / "corpus.partial").exists()


def test_a_file_or_a_link_beside_an_artefacts_own_files_stays(tmp_path):
    write(tmp_path / "corpus")
    for make in (lambda path: path.write_text("mine"), lambda path: path.symlink_to(tmp_path)):
        make(tmp_path / "corpus/sub/mine")
        with pytest.raises(StoreError, match=r"corpus holds sub/mine, which is no part of its corpus, and stays"):
            write(tmp_path / "corpus", text="new")
        (tmp_path / "corpus/sub/mine").unlink()
    (tmp_path / "corpus/.DS_Store").touch()
    write(tmp_path / "corpus", text="new")
    assert content(tmp_path / "corpus").keys() == {"run.json", "sub/data"}


def test_an_artefact_of_another_kind_or_of_a_newer_version_stays(tmp_path):
    write(tmp_path / "a", "dictionary")
    with pytest.raises(
        StoreError, match=r"a holds something else than a features, and stays as it is .it is of kind 'dictionary'"
    ):
        write(tmp_path / "a", "features")
    write(tmp_path / "a", "features", over=("dictionary",))
    record = json.loads((tmp_path / "a/run.json").read_text())
    (tmp_path / "a/run.json").write_text(json.dumps({**record, "schema": SCHEMA + 1}))
    with pytest.raises(StoreError, match="update the package"):
        write(tmp_path / "a", "features")


@pytest.mark.parametrize("damage", ["changed", "missing", "record"])
def test_ours_is_replaced_though_damaged(tmp_path, damage):
    write(tmp_path / "a")
    match damage:
        case "changed":
            (tmp_path / "a/sub/data").write_text("x")
        case "missing":
            (tmp_path / "a/sub/data").unlink()
        case "record":
            record = (tmp_path / "a/run.json").read_text()
            (tmp_path / "a/run.json").write_text(record.replace('"code": "test"', '"code": "tess"'))
    write(tmp_path / "a", text="new")
    artefact.verify(tmp_path / "a", artefact.read_run(tmp_path / "a", "corpus"))


class KilledError(BaseException):
    pass


def test_ours_is_known_wherever_its_removal_was_killed(tmp_path, monkeypatch):
    """After each file that is removed, of an artefact and of a draft: the next writer is not refused."""
    for begin in ("artefact", "draft"):
        for at in range(5):
            target = tmp_path / f"{begin}{at}" / "a"
            write(target)
            target.rename(target.with_name("a.partial"))
            if begin == "draft":
                (target.with_name("a.partial") / "run.json").rename(target.with_name("a.partial") / foreign.MARK)
            left, real = [at], os.unlink

            def unlink(*given, left=left, real=real, **options):
                if not left[0]:
                    raise KilledError
                left[0] -= 1
                return real(*given, **options)

            with monkeypatch.context() as patch:
                patch.setattr(os, "unlink", unlink)
                with suppress(KilledError):
                    artefact.discard(target.with_name("a.partial"))
            write(target)
            assert not target.with_name("a.partial").exists()


def test_a_killed_draft_makes_way(tmp_path):
    program = (
        "import os, signal, sys\nfrom sae import artefact\nfrom sae.provenance import Run\n"
        "with artefact.writing(sys.argv[1], Run(kind='corpus')) as draft:\n"
        "    (draft.path / 'half').write_text('x')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "a"]).returncode == -signal.SIGKILL
    assert (tmp_path / "a.partial/half").exists()
    write(tmp_path / "a")
    assert content(tmp_path / "a").keys() == {"run.json", "sub/data"}


def test_a_store_and_the_record_of_live_rows_take_each_others_place(tmp_path):
    small_store(tmp_path / "store")
    (tmp_path / "store.partial").mkdir()
    (tmp_path / "store.partial/plan.json").write_text("{}")  # work on another one
    abandon(tmp_path / "store")
    write(tmp_path / "store", LIVE, over=("activations",))
    assert not (tmp_path / "store.partial").exists()
    assert ActivationStore.open(small_store(tmp_path / "store")).n_rows == 100


def test_the_parts_of_a_pass_are_removed_and_nothing_beside_them(tmp_path):
    folder = tmp_path / "features.parts"
    for name in ("0-of-2", "1-of-2"):
        write(folder / name, "part of features")
    foreign.mark(folder / "0-of-3.partial")
    fill(folder / "3-of-4", THEIRS["own files"])
    fill(folder, {"mine.txt": "x"})
    remove_parts(folder)
    assert content(folder) == {"3-of-4/notes.txt": b"years of work", "mine.txt": b"x"}
    shutil.rmtree(folder / "3-of-4")
    (folder / "mine.txt").unlink()
    write(folder / "0-of-1", "part of features")
    remove_parts(folder)
    assert not folder.exists()


def test_dictionaries_of_an_earlier_sweep_go_and_what_else_lies_there_stays(tmp_path, capsys):
    folder = tmp_path / "A/sweep"
    for name in ("old", "kept", "noted"):
        write(folder / name / "dictionary", "dictionary", id=f"A/sweep/{name}")
    fill(folder / "mine/dictionary", THEIRS["a repository"])
    (folder / "noted/dictionary/notes.txt").touch()
    remove_others(folder, {"A/sweep/kept"})
    assert sorted(path.name for path in folder.iterdir()) == ["kept", "mine", "noted"]
    assert capsys.readouterr().out.count("was left") == 2
    assert (folder / "mine/dictionary/paper.tex").read_text() == "years of work"


def test_no_sweep_removes_a_dictionary_that_was_put_there(tmp_path, capsys):
    """By `sae.save`, or as a link: what it leads to was emptied."""
    folder = tmp_path / "A/sweep"
    write(folder / "saved/dictionary", "dictionary", id="A/1")
    for name in ("linked", "linked-whole"):
        write(tmp_path / name / "dictionary", "dictionary", id=f"A/sweep/{name}")
    (folder / "linked").mkdir()
    (folder / "linked/dictionary").symlink_to(tmp_path / "linked/dictionary")
    (folder / "linked-whole").symlink_to(tmp_path / "linked-whole")
    before = content(tmp_path)
    remove_others(folder, set())
    assert content(tmp_path) == before
    assert capsys.readouterr().out.count("was left") == 3


def test_pictures_of_somebody_elses_stay(tmp_path, monkeypatch):
    for name in ("results", "results.partial"):
        fill(tmp_path / "docs/images" / name, {"proxies-arabic.png": "ours", "thesis.png": "mine"})
    with pytest.raises(StoreError, match=r"results holds thesis.png, which is no picture of a study, and stays"):
        refuse_pictures(tmp_path / "docs/images/results")
    before = content(tmp_path)
    monkeypatch.setattr("pipelines.results.locate", lambda name: name)
    monkeypatch.setattr("pipelines.results.parts_of", lambda place: [])
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"thesis.png"):
            results("A/1", tmp_path / "docs")
        assert content(tmp_path) == before
        if (tmp_path / "docs/images/results/thesis.png").exists():
            (tmp_path / "docs/images/results/thesis.png").unlink()
            before = content(tmp_path)
