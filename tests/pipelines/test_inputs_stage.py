"""What params name and no stage makes: who edits it sees what depends on it run again, and only then."""

import json
import os
from pathlib import Path

import pytest

from pipelines import inputs
from sae import artefact
from sae.provenance import Run, sha256_file
from sae.source import named
from tests.support.tiny_pipeline import dvc, make_copy


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("a", "one"), ("b", "two")):
        Path("texts").mkdir(exist_ok=True)
        Path(f"texts/{name}.txt").write_text(text)
    return tmp_path


TEXTS = {"corpus": {"source": "files", "files": ["texts/*.txt"]}}


def found(params, section="corpus"):
    inputs.main(params, [section])
    return json.loads(Path(f"data/inputs/{section}.json").read_text())


def test_a_text_that_was_edited_or_added_changes_the_file_and_nothing_else_does(project):
    first = found(TEXTS)
    assert first == {f"texts/{name}.txt": {"bytes": 3, "sha256": sha256_file(Path(f"texts/{name}.txt"))} for name in "ab"}
    written = os.stat("data/inputs/corpus.json").st_mtime_ns
    assert found(TEXTS) == first
    assert os.stat("data/inputs/corpus.json").st_mtime_ns == written, "what stays the same is not touched"
    Path("texts/c.txt").write_text("six")
    assert found(TEXTS).keys() == first.keys() | {"texts/c.txt"}
    assert found({"corpus": {**TEXTS["corpus"], "source": "installed"}}) == {}


def test_a_digest_is_kept_and_an_edit_that_hides_is_noticed(project, monkeypatch):
    """Of the same size and, put back, the same date; on a clock by which the files have rested for long."""
    clock = named.time.time_ns() + 10 * named.SETTLED
    monkeypatch.setattr(named.time, "time_ns", lambda: clock)
    first = found(TEXTS)
    taken = []
    monkeypatch.setattr(named, "sha256_file", lambda path: taken.append(path.name) or sha256_file(path))
    assert (found(TEXTS), taken) == (first, [])
    before = os.stat("texts/a.txt")
    Path("texts/a.txt").write_text("ten")
    os.utime("texts/a.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    again = found(TEXTS)
    assert taken == ["a.txt"]
    assert again["texts/a.txt"] != first["texts/a.txt"]
    assert again["texts/b.txt"] == first["texts/b.txt"]


def test_a_file_that_has_not_rested_is_digested_each_time(project, monkeypatch):
    changed = max(os.stat(path).st_ctime_ns for path in Path("texts").iterdir())
    monkeypatch.setattr(named.time, "time_ns", lambda: changed + 1)
    found(TEXTS)
    assert json.loads(Path("data/inputs/known.json").read_text()) == {}


def test_arrays_weights_tokenizers_and_other_dictionaries_are_inputs(project):
    Path("ids.npy").write_bytes(b"ids")
    assert found({"tokens": {"source": "ids", "path": "ids.npy"}}, "tokens").keys() == {"ids.npy"}
    Path("own").mkdir()
    for name in ("config.json", "model.pth", "tokenizer.json", "notes.md"):
        Path("own", name).write_text(name)
    assert found({"tokens": {"source": "corpus", "tokenizer": "own"}}, "tokens").keys() == {
        "own/config.json",
        "own/tokenizer.json",
    }
    assert found({"tokens": {"source": "corpus", "tokenizer": "train"}}, "tokens") == {}
    weights = found({"transformer": {"source": "folder", "path": "own"}}, "transformer")
    assert weights.keys() == {"own/config.json", "own/model.pth"}
    assert found({"transformer": {"source": "train", "path": "own"}}, "transformer") == {}
    for name, kind in (("B/transformer", "transformer"), ("B/1/dictionary", "dictionary")):
        with artefact.writing(Path("data") / name, Run(kind=kind)):
            pass
    assert found({"features": {"other": ""}}, "features") == {}
    beside = found({"features": {"other": "B/1"}}, "features")
    assert beside.keys() == {"data/B/1/dictionary/run.json", "data/B/transformer/run.json"}
    assert beside["data/B/1/dictionary/run.json"]["sha256"] == artefact.digest("data/B/1/dictionary")


def test_what_is_not_there_or_no_section_is_left_to_the_stage_that_reads_it(project):
    assert found({"tokens": {"source": "ids", "path": "gone.npy"}}, "tokens") == {}
    assert found({"corpus": {"source": "files", "files": ["none/*.txt"]}}) == {}
    assert found({"corpus": {"source": "files", "files": 3}}) == {}
    assert found({"corpus": None}) == {}


@pytest.mark.slow
def test_dvc_repro_notices_a_text(tmp_path):
    """The stage `corpus` runs again after an edit and after a text was added, and else does not."""
    folder = make_copy(tmp_path / "project", {"corpus": {"source": "files", "files": ["texts/*.txt"]}})
    (folder / "texts").mkdir()
    (folder / "texts/a.txt").write_text("one text of some words\n")
    dvc(folder, "init", "--no-scm", "-q")
    runs = "Running stage 'corpus'"
    assert runs in dvc(folder, "repro", "corpus")
    assert runs not in dvc(folder, "repro", "corpus")
    (folder / "texts/a.txt").write_text("one text of two words \n")
    assert runs in dvc(folder, "repro", "corpus")
    (folder / "texts/b.txt").write_text("another\n")
    assert runs in dvc(folder, "repro", "corpus")
    assert runs not in dvc(folder, "repro", "corpus")
