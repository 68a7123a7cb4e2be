"""The user's own files: every format, and for everything that can be wrong with one a message that says where."""

import json

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from sae.errors import ConfigError, CorpusError
from sae.source.corpus_document import Document
from sae.source.corpus_files import read_files

RECORDS = [{"text": "one\n"}, {"text": "two ש", "kind": "hebrew"}, {"text": "  "}, {"text": None}]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


def read(folder, pattern="**/*", field="text"):
    return list(read_files([str(folder / pattern)], field))


def test_txt_is_one_document_named_relative_to_the_glob(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/two.txt").write_text("zwei\n")
    (tmp_path / "one.txt").write_bytes(b"\xef\xbb\xbfeins\n")  # with a byte order mark
    (tmp_path / "blank.txt").write_text(" \n")
    assert read(tmp_path) == [Document("zwei\n", "txt", "b/two.txt"), Document("eins\n", "txt", "one.txt")]
    assert read(tmp_path, "one.txt") == [Document("eins\n", "txt", "one.txt")]


@pytest.mark.parametrize("last_line_end", [True, False])
def test_jsonl_packed_or_not(tmp_path, last_line_end):
    content = LINES + b'{"text": "end"}' + b"\n" * last_line_end
    (tmp_path / "a.jsonl").write_bytes(content)
    half = len(content) // 2
    frames = [zstandard.ZstdCompressor().compress(part) for part in (content[:half], content[half:])]
    (tmp_path / "b.jsonl.zst").write_bytes(b"".join(frames))
    plain, packed = read(tmp_path, "*.jsonl"), read(tmp_path, "*.zst")
    assert plain == [
        Document("one\n", "jsonl", "a.jsonl:1"),
        Document("two ש", "hebrew", "a.jsonl:2"),
        Document("end", "jsonl", "a.jsonl:5"),
    ]
    assert [document.text for document in packed] == [document.text for document in plain]


def test_lines_longer_than_a_block(tmp_path):
    texts = ["x" * 3_000_000, "y", "z" * (1 << 20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert [document.text for document in read(tmp_path)] == texts


def test_parquet(tmp_path):
    table = pyarrow.table({"body": ["one", None, "three"], "kind": ["k", "k", None], "n": [1, 2, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path, field="body") == [Document("one", "k", "a.parquet:1"), Document("three", "parquet", "a.parquet:3")]
    with pytest.raises(CorpusError, match=r"a.parquet:1 has no field 'text' \(it has: body, kind, n\); set corpus.text_field"):
        read(tmp_path)


def test_a_file_that_two_globs_match_is_read_once(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    assert len(list(read_files([str(tmp_path / "*.txt"), str(tmp_path / "a.*")], "text"))) == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"caf\xe9 au lait", r"a.txt is not UTF-8: byte 0xe9 at offset 3 .*iconv"),
        ("a.txt", "text".encode("utf-16"), r"a.txt is not UTF-8: byte 0xff at offset 0"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', r"a.jsonl is not UTF-8: byte 0xe9 at offset 27"),
        ("a.jsonl.zst", zstandard.ZstdCompressor().compress(b'{"text": "\xff"}'), r"not UTF-8: byte 0xff at offset 10"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a.jsonl, line 2 is no JSON"),
        ("a.jsonl", b'["text"]\n', r"a.jsonl, line 1 is not a JSON object but list"),
        ("a.jsonl", b'{"body": "a", "title": "b"}\n', r"a.jsonl:1 has no field 'text' \(it has: body, title\)"),
        ("a.jsonl", b'{"text": 7}\n', r"a.jsonl:1: field 'text' holds int"),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', r"a.jsonl:1: character 0 is half of a surrogate pair"),
        ("a.jsonl.zst", b"not zstd at all", r"a.jsonl.zst is no whole zstd file"),
        ("a.parquet", b"PAR1 not parquet", r"a.parquet is no whole parquet file"),
    ],
)
def test_bad_content_is_named_with_its_place(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=words):
        read(tmp_path)


def test_bad_globs(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing matches '.*\*.txt'"):
        read(tmp_path, "*.txt")
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(ConfigError, match=r"a.docx is none of .jsonl, .jsonl.zst, .parquet, .txt"):
        read(tmp_path)
