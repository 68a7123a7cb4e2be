"""`Document`: how documents are cut, taken, counted, and lie on disk."""

import array
import io
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from sae import artefact
from sae.errors import CorpusError

FILE = "documents.jsonl.zst"

SHORTEST = 60
"""Bytes: a cut-off rest shorter than this is not worth a document."""
LONGEST = 1_000_000
"""UTF-8 bytes. A longer document is cut into parts, which are documents of their own: they are what is tokenized at once, and
what goes into the train or the held-out split."""
PART = 65_536
"""UTF-8 bytes of a part."""
LONE_PARTS = 20
"""Parts of a document that is the only one of its kind: else none of its kind could be held out."""
SHORTEST_PART = 1_000
"""UTF-8 bytes of those."""
MOST_KINDS = 32_767
"""Stores number kinds with 16 bits."""


class Document(NamedTuple):
    """One text of the corpus."""

    text: str
    kind: str
    """What it is (english, python, arabic, dna ...): the truth that features are later judged against."""
    source: str
    """Where it came from, without any path of this machine: `numpy/linalg/_linalg.py`."""


def n_bytes(text: str) -> int:
    """Length in UTF-8."""
    return len(text.encode())


def head(text: str, most: int) -> str:
    """At most `most` UTF-8 bytes from the start, ending with a whole line where that loses less than a fifth."""
    raw = text.encode()
    if len(raw) <= most:
        return text
    cut = raw[:most].decode(errors="ignore")
    line = cut.rfind("\n") + 1
    return cut[:line] if line > 0.8 * len(cut) else cut


def parts(texts: Iterable[str], most: int) -> Iterator[str]:
    """Consecutive parts, of at most `most` UTF-8 bytes, of the text that `texts` are the consecutive blocks of. A part ends with
    a line, or else with a word, where that comes in its last fifth."""
    rest = ""
    for text in texts:
        rest += text
        start = 0
        while len(rest) - start > most:  # so many characters are at least as many bytes
            part = _part(rest[start : start + most + 1], most)
            start += len(part)
            yield part
        rest = rest[start:]
    while rest:
        part = _part(rest, most)
        rest = rest[len(part) :]
        yield part


def _part(text: str, most: int) -> str:
    raw = text.encode()
    if len(raw) <= most:
        return text
    cut = raw[:most].decode(errors="ignore")
    for end in ("\n", " "):
        after = cut.rfind(end) + 1
        if after > 0.8 * len(cut):
            return cut[:after]
    return cut


def in_parts(document: Document, longest: int = LONGEST, most: int = PART) -> Iterator[Document]:
    """The document, or its parts where it has more than `longest` UTF-8 bytes. Named `source`, `source#1` and on."""
    if len(document.text) * 4 <= longest or n_bytes(document.text) <= longest:
        yield document
        return
    for number, text in enumerate(parts([document.text], most)):
        if text.strip():
            yield document._replace(text=text, source=f"{document.source}#{number}" if number else document.source)


def window(text: str, most: int, rng: random.Random) -> str:
    """At most `most` UTF-8 bytes that begin at the start of a line chosen by `rng`."""
    latest = len(text) - most
    if latest > 0:
        line = text.find("\n", rng.randrange(latest + 1)) + 1
        text = text[min(line, latest) :]
    return head(text, most)


def take(documents: Iterable[Document], target: int) -> Iterator[Document]:
    """Documents until their text has `target` UTF-8 bytes; the last one is cut to fit. Fewer where `documents` end before."""
    left = target
    for document in documents:
        if left < SHORTEST:
            return
        text = head(document.text, left)
        if text.strip():
            left -= n_bytes(text)
            yield document._replace(text=text)


class Tally:
    """Documents and bytes, counted as they come."""

    def __init__(self) -> None:
        self.n_documents, self.n_bytes = Counter[str](), Counter[str]()

    def add(self, document: Document) -> None:
        """Raises `CorpusError` for more kinds than can be numbered."""
        self.n_documents[document.kind] += 1
        self.n_bytes[document.kind] += n_bytes(document.text)
        if len(self.n_documents) > MOST_KINDS:
            raise too_many_kinds(document)

    def manifest(self) -> dict[str, Any]:
        """`n_documents`, `n_bytes` (UTF-8), and both `by_kind`."""
        by_kind = {kind: {"documents": self.n_documents[kind], "bytes": self.n_bytes[kind]} for kind in sorted(self.n_documents)}
        return {"n_documents": self.n_documents.total(), "n_bytes": self.n_bytes.total(), "by_kind": by_kind}


def too_many_kinds(document: Document) -> CorpusError:
    return CorpusError(
        f"{document.source} is of the kind {document.kind[:40]!r}, one more than the {MOST_KINDS:,} that can be told apart; "
        "`kind` is to say what sort of text it is (english, python ...), not which text: rename the field, or leave it out"
    )


def count(documents: Iterable[Document]) -> dict[str, Any]:
    """The manifest of these documents."""
    tally = Tally()
    for document in documents:
        tally.add(document)
    return tally.manifest()


class Spool:
    """Documents put on disk one by one, to be taken again in any order; 8 bytes of each stay in memory."""

    def __init__(self, path: Path):
        self._file = open(path, "w+b")  # noqa: SIM115 - closed by `__exit__`
        self._start = array.array("q", [0])

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._start) - 1

    def add(self, document: Document) -> None:
        line = to_line(document)
        self._file.seek(self._start[-1])
        self._file.write(line)
        self._start.append(self._start[-1] + len(line))

    def __getitem__(self, number: int) -> Document:
        self._file.seek(self._start[number])
        return Document(**json.loads(self._file.read(self._start[number + 1] - self._start[number])))


def to_line(document: Document) -> bytes:
    return json.dumps(document._asdict(), ensure_ascii=False).encode() + b"\n"


def write_documents(documents: Iterable[Document], folder: Path) -> None:
    """One JSON object a line, zstd."""
    with open(folder / FILE, "wb") as raw, zstandard.ZstdCompressor(level=6).stream_writer(raw) as packed:
        for document in documents:
            packed.write(to_line(document))


def read_documents(path: str | Path) -> Iterator[Document]:
    """The documents of the corpus at `path`, in its order. Raises `StoreError` where it is missing or damaged."""
    artefact.verify(path, artefact.read_run(path, "corpus"))
    with open(Path(path) / FILE, "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as packed:
        for line in io.TextIOWrapper(packed, encoding="utf-8", newline="\n"):
            yield Document(**json.loads(line))
