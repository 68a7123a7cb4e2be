"""`Document`: how documents are cut, taken, counted, and lie on disk."""

import io
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from sae import artefact

FILE = "documents.jsonl.zst"

SHORTEST = 60
"""Bytes: a cut-off rest shorter than this is not worth a document."""


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


def count(documents: Iterable[Document]) -> dict[str, Any]:
    """The manifest: `n_documents`, `n_bytes` (UTF-8), and both `by_kind`."""
    n_documents, n_of_bytes = Counter[str](), Counter[str]()
    for document in documents:
        n_documents[document.kind] += 1
        n_of_bytes[document.kind] += n_bytes(document.text)
    by_kind = {kind: {"documents": n_documents[kind], "bytes": n_of_bytes[kind]} for kind in sorted(n_documents)}
    return {"n_documents": n_documents.total(), "n_bytes": n_of_bytes.total(), "by_kind": by_kind}


def write_documents(documents: Iterable[Document], folder: Path) -> None:
    """One JSON object a line, zstd."""
    with open(folder / FILE, "wb") as raw, zstandard.ZstdCompressor(level=6).stream_writer(raw) as packed:
        for document in documents:
            packed.write(json.dumps(document._asdict(), ensure_ascii=False).encode() + b"\n")


def read_documents(path: str | Path) -> Iterator[Document]:
    """The documents of the corpus at `path`, in its order. Raises `StoreError` where it is missing or damaged."""
    artefact.verify(path, artefact.read_run(path, "corpus"))
    with open(Path(path) / FILE, "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as packed:
        for line in io.TextIOWrapper(packed, encoding="utf-8", newline="\n"):
            yield Document(**json.loads(line))
