"""The user's own files: every format, and for everything that can be wrong with one a message that says where."""

import json
import os
import random

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from sae.errors import ConfigError, CorpusError
from sae.source.corpus_document import LONGEST, PART, Document, to_line
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


def test_lines_longer_than_a_block_and_documents_in_parts(tmp_path):
    texts = ["x" * 3_000_000, "y", "z" * LONGEST, "two words " * 200_000]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = read(tmp_path)
    assert ["".join(d.text for d in found if d.source.split("#")[0] == f"a.jsonl:{i}") for i in (1, 2, 3, 4)] == texts
    assert max(len(document.text) for document in found if document.source != "a.jsonl:3") <= PART
    assert all(document.text.endswith("words ") or document.text.endswith("two ") for document in found[-30:])
    assert [document.source for document in found[:3]] == ["a.jsonl:1", "a.jsonl:1#1", "a.jsonl:1#2"]


def test_a_text_file_of_any_size_comes_in_parts_as_it_is_read(tmp_path):
    text = "eine Zeile mit ü\n" * 120_000
    (tmp_path / "big.txt").write_text("\ufeff" + text)
    found = read(tmp_path)
    assert "".join(document.text for document in found) == text
    assert all(document.text.endswith("ü\n") and len(document.text.encode()) <= PART for document in found)
    with open(tmp_path / "big.txt", "ab") as file:
        file.write(b"caf\xe9 au lait")
    with pytest.raises(CorpusError, match=f"byte 0xe9 at offset {3 + len(text.encode()) + 3} "):
        read(tmp_path)


def test_a_line_without_an_end_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("sae.source.corpus_bytes.LONGEST_RECORD", 2_000_000)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 3_000_000}))
    with pytest.raises(CorpusError, match=r"a.jsonl has a line of more than 2,000,000 bytes"):
        read(tmp_path)


@pytest.mark.parametrize("share", [0.95, 0.75, 0.25, 0.0])
def test_a_packed_file_that_was_cut_is_an_error(tmp_path, share):
    lines = [json.dumps({"text": f"document {i}"}).encode() + b"\n" for i in range(4000)]
    frames = [zstandard.ZstdCompressor().compress(b"".join(lines[i : i + 400])) for i in range(0, 4000, 400)]
    whole = b"".join(frames)
    (tmp_path / "a.jsonl.zst").write_bytes(whole)
    assert len(read(tmp_path)) == 4000
    (tmp_path / "a.jsonl.zst").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CorpusError, match="is no whole zstd file"):
        read(tmp_path)


def test_a_bomb_ends_at_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("sae.source.corpus_bytes.MOST_UNPACKED", 1_000_000)
    record = json.dumps({"text": "0" * 30_000}).encode() + b"\n"
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor(level=19).compress(record * 400))
    with pytest.raises(CorpusError, match=r"unpacks to more than 1,000,000 bytes and 1,000 times its size"):
        read(tmp_path, "*.zst")
    for dictionary in (True, False):  # one copy in the file of what all rows hold; or packed pages
        table = pyarrow.table({"text": ["0" * 100_000] * 200})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet", use_dictionary=dictionary, compression="zstd")
        with pytest.raises(CorpusError, match=r"a.parquet .* unpacks to more than"):
            read(tmp_path, "*.parquet")


def test_a_field_within_a_field(tmp_path):
    records = [{"message": {"text": "one"}}, {"message": None}, {"message": {"text": "three"}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "a.parquet")
    for pattern in ("*.jsonl", "*.parquet"):
        assert [document.text for document in read(tmp_path, pattern, "message.text")] == ["one", "three"]
        with pytest.raises(CorpusError, match=r"field 'message' holds dict, not text; it has: text; set corpus.text_field"):
            read(tmp_path, pattern, "message")
        with pytest.raises(CorpusError, match=r"field 'message' has no field 'body' \(it has: text\)"):
            read(tmp_path, pattern, "message.body")


@pytest.mark.parametrize(("given", "kind"), [(0, "0"), ("", "jsonl"), (None, "jsonl"), (" ", "jsonl"), (7, "7"), ("a", "a")])
def test_what_a_record_says_that_it_is(tmp_path, given, kind):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x", "kind": given}))
    assert [document.kind for document in read(tmp_path)] == [kind]


def test_names_with_brackets_and_names_that_are_not_utf8(tmp_path):
    folder = tmp_path / "data[1]"
    folder.mkdir()
    (folder / "a[2].txt").write_text("brackets")
    (folder / "a2.txt").write_text("plain")
    assert [document.text for document in read(tmp_path, "data[1]/a[2].txt")] == ["brackets"]
    assert [document.source for document in read(tmp_path, "data[1]/*.txt")] == ["a2.txt", "a[2].txt"]
    assert [document.text for document in read(tmp_path, "data[1]/a[23].txt")] == ["plain"]
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "w") as file:
        file.write("latin")
    (document,) = read(tmp_path, "c*.txt")
    assert document.source == "caf\\xe9.txt"
    assert to_line(document)
    with pytest.raises(ConfigError, match=r"is a folder; say which files in it, as in .*\*\*/\*\.txt"):
        read(tmp_path, "data[1]")


def test_a_parquet_file_with_any_damage_is_an_error_or_reads(tmp_path):
    rng = random.Random(0)
    table = pyarrow.table({"text": [f"text {i} " + "".join(rng.choices("abcdef", k=50)) for i in range(300)]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    n_refused = 0
    for i in range(150):
        damaged = bytearray(whole)
        if i % 2:  # anywhere, or in the footer
            damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        else:
            damaged[len(whole) - 1 - rng.randrange(700)] = rng.randrange(256)
        (tmp_path / "a.parquet").write_bytes(damaged)
        try:
            read(tmp_path)
        except CorpusError:
            n_refused += 1
    assert n_refused > 20


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
        ("a.jsonl", b'{"text": "a", "kind": "\\ud83d"}\n', r"a.jsonl:1: character 0 of field 'kind' is half of a surrogate pair"),
        ("a.jsonl", b'{"text": "a", "kind": true}\n', r"a.jsonl:1: field 'kind' holds bool, not the name of a kind"),
        ("a.jsonl", b'{"text": "a", "kind": ["b"]}\n', r"a.jsonl:1: field 'kind' holds list"),
        ("a.jsonl", b'{"text": "a", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", r"line 1 nests too deeply"),
        ("a.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}", r"line 1 is no JSON \(.*4300 digits"),
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
