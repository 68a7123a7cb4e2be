"""The corpus stage: its params, its order, its manifest, its artefact."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.common import Stage
from pipelines.corpus import main
from sae import artefact
from sae.config import build, read_params, read_section
from sae.errors import ConfigError, CorpusError, StoreError
from sae.foreign import MARK
from sae.provenance import Run
from sae.source.contexts import survey
from sae.source.corpus import CorpusConfig, gather, write_corpus
from sae.source.corpus_document import FILE, Document, count, head, read_documents, take, window

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"source": "installed", "megabytes": 0.05, "shares": {"english": 2, "arabic": 1, "dna": 1, "base64": 1}}


def stage(section):
    return Stage("corpus", {"run": {"device": "cpu"}, "corpus": section})


def test_params_hold_the_defaults():
    assert read_section(read_params(ROOT / "params.yaml"), "corpus", CorpusConfig) == CorpusConfig()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"source": "hubb"}, r"corpus.source.*'installed', 'files', 'hub' or 'none'"),
        ({"sauce": "hub"}, "did you mean 'source'"),
        ({"megabytes": 0}, "megabytes must be positive, not 0"),
        ({"megabytes": "many"}, r"corpus.megabytes' = 'many'"),
        ({"shares": {"klingon": 1}}, "kinds that cannot be made: klingon; known: amharic, arabic"),
        ({"shares": {"english": -1}}, "must not be negative"),
        ({"shares": {"english": 0}}, "one of them positive"),
        ({"source": "files"}, "needs at least one glob"),
        ({"source": "hub", "revision": "0" * 40}, "needs the data set's name"),
        ({"source": "hub", "dataset": "a/b"}, r"full commit of a/b in revision .*not ''"),
        ({"source": "hub", "dataset": "a/b", "revision": "main"}, "not 'main': a branch or tag may move"),
        ({"source": "hub", "dataset": "a/b", "revision": "0" * 40, "max_documents": 0}, "max_documents must be at least 1"),
    ],
)
def test_impossible_params_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        build(CorpusConfig, values, "corpus")


def test_none_is_an_empty_corpus(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(stage({"source": "none"}))
    assert list(read_documents("data/corpus")) == []
    assert artefact.read_run("data/corpus", "corpus").facts["n_documents"] == 0


def test_blank_files_are_an_empty_corpus_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("  \n")
    with pytest.raises(CorpusError, match="the corpus is empty: source 'files'"):
        main(stage({"source": "files", "files": ["*.txt"]}))
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(CorpusError, match=r"a.txt is not UTF-8: byte 0xe9 at offset 3"):
        main(stage({"source": "files", "files": ["*.txt"]}))
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".corpus.lock"]


def written(config, folder):
    with artefact.writing(folder, Run(kind="corpus", code="test")) as draft:
        facts = write_corpus(config, draft.path)
        assert {path.name for path in draft.path.iterdir()} == {FILE, MARK}
    return list(read_documents(folder)), facts


def test_the_only_document_of_a_kind_comes_in_parts_of_which_some_can_be_held_out(tmp_path):
    book = "".join(f"Line {i} of the only book.\n" for i in range(2000))
    (tmp_path / "book.txt").write_text(book)
    (tmp_path / "a.jsonl").write_text('{"text": "short and alone"}\n')
    files = [str(tmp_path / "book.txt"), str(tmp_path / "a.jsonl")]
    documents, facts = written(CorpusConfig(source="files", files=files), tmp_path / "c")
    parts = [document for document in documents if document.kind == "txt"]
    assert len(parts) in (20, 21, 22)
    assert "".join(document.text for document in parts) == book
    assert facts["by_kind"]["txt"] == {"documents": len(parts), "bytes": len(book)}
    assert facts["by_kind"]["jsonl"]["documents"] == 1
    split = survey(documents, seed=0).splits(0.15)
    held_out = sum(len(document.text) for document, where in zip(documents, split, strict=True) if where == 1)
    assert 0.1 < held_out / len(book) < 0.2


def test_too_many_kinds_are_told(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "x{i}", "kind": "k{i}"}}\n' for i in range(30)))
    config = CorpusConfig(source="files", files=[str(tmp_path / "*.jsonl")])
    monkeypatch.setattr("sae.source.corpus_document.MOST_KINDS", 29)
    with pytest.raises(CorpusError, match=r"a.jsonl:30 is of the kind 'k29', one more than the 29 that can be told apart"):
        written(config, tmp_path / "c")


def test_order_is_a_seeded_shuffle(tmp_path):
    lines = "".join(f'{{"text": "{i}"}}\n' for i in range(200))
    (tmp_path / "a.jsonl").write_text(lines)
    orders = []
    for seed in (0, 0, 1):
        documents, facts = written(CorpusConfig(source="files", files=[str(tmp_path / "*.jsonl")], seed=seed), tmp_path / "c")
        orders.append([document.text for document in documents])
        assert facts["short"] == {}
        assert sorted(orders[-1], key=int) == [str(i) for i in range(200)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0], key=int)


def test_the_manifest_by_hand():
    documents = [Document("ab", "english", ""), Document("ש", "hebrew", ""), Document("c\n", "english", "")]
    assert count(documents) == {
        "n_documents": 3,
        "n_bytes": 6,
        "by_kind": {"english": {"documents": 2, "bytes": 4}, "hebrew": {"documents": 1, "bytes": 2}},
    }


def test_the_stage_writes_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(stage(SMALL))
    run = artefact.read_run("data/corpus", "corpus")
    documents = list(read_documents("data/corpus"))
    assert count(documents) == {name: run.facts[name] for name in ("n_documents", "n_bytes", "by_kind")}
    assert abs(run.facts["n_bytes"] - 50_000) < 1000
    assert "english" in capsys.readouterr().out
    assert str(tmp_path) not in run.to_json()
    found = gather(build(CorpusConfig, SMALL, "corpus"))[0]
    assert sorted(documents) == sorted(found)


def test_another_process_with_another_hash_seed_gives_the_same_documents():
    script = f"""
import hashlib
from sae.config import build
from sae.source.corpus import CorpusConfig, gather
documents, _ = gather(build(CorpusConfig, {SMALL}, "corpus"))
print(hashlib.sha256(repr([tuple(document) for document in documents]).encode()).hexdigest())
"""
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, timeout=300)
    documents, _ = gather(build(CorpusConfig, SMALL, "corpus"))
    own = hashlib.sha256(repr([tuple(document) for document in documents]).encode()).hexdigest()
    assert done.stdout.decode().strip() == own


def test_a_damaged_corpus_refuses_to_open(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="no corpus at data/corpus"):
        next(read_documents("data/corpus"))
    main(stage({"source": "none"}))
    with open(Path("data/corpus") / FILE, "ab") as file:
        file.write(b"x")
    with pytest.raises(StoreError, match="damaged"):
        next(read_documents("data/corpus"))


def test_cutting():
    assert head("short", 10) == "short"
    assert head("ש" * 10, 5) == "שש"
    assert head("a line\n" * 10 + "cut", 72) == "a line\n" * 10
    taken = list(take([Document("x" * 100, "k", ""), Document(" " * 100, "k", ""), Document("y" * 100, "k", "")] * 2, 290))
    assert [len(document.text) for document in taken] == [100, 100, 90]
    assert list(take(iter([Document("x" * 100, "k", "")]), 0)) == []


def test_windows_begin_at_lines_and_are_never_much_shorter():
    text = "".join(f"line {i}\n" for i in range(1000))
    for seed in range(50):
        cut = window(text, 500, random.Random(seed))
        assert cut.startswith("line ") or text.endswith(cut)
        assert 400 < len(cut) <= 500
    assert len(window("x" * 1000, 500, random.Random(0))) == 500
