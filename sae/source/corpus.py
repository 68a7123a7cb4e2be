"""Documents of text with their kind: composed from what is installed, read from files, or streamed from a hub."""

import io
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import zstandard

from sae import artefact
from sae.errors import ConfigError, CorpusError
from sae.provenance import Run
from sae.source.corpus_document import Document, n_bytes
from sae.source.corpus_installed import installed

FILE = "documents.jsonl.zst"

SHARES = {
    "english": 45.0, "python": 32.0, "cpp": 11.0, "markdown": 3.0, "json": 2.0, "javascript": 0.25, "pem": 0.4,
    "arabic": 0.3, "hebrew": 0.3, "russian": 0.3, "greek": 0.3, "chinese": 0.3, "japanese": 0.3, "korean": 0.3,
    "hindi": 0.1, "bengali": 0.1, "tamil": 0.1, "thai": 0.1, "armenian": 0.1, "georgian": 0.1, "amharic": 0.1,
    "dna": 0.25, "base64": 0.3, "hexadecimal": 0.25,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Section `corpus`."""

    source: Literal["installed", "files", "hub", "none"] = "installed"
    """`installed`: text that is on the machine already; `files`; `hub`: a data set; `none`: no text (`tokens.source: ids`)."""
    seed: int = 0
    """Which of the installed files, what is composed, and the order of documents."""
    megabytes: float = 20.0
    """Of `installed`: 10^6 bytes of UTF-8 text."""
    shares: dict[str, float] = field(default_factory=lambda: dict(SHARES))
    """Of `installed`: kind -> share of the bytes, in any unit (they are normalised)."""
    files: list[str] = field(default_factory=list)
    """Of `files`: globs of txt, jsonl, jsonl.zst, parquet."""
    text_field: str = "text"
    """Of `files`: the field (column) that holds a document's text; `kind` is read too where there is one."""
    dataset: str = ""
    """Of `hub`: the data set's name, `owner/name`."""
    revision: str = ""
    """Of `hub`: a commit, so that the text stays the same."""
    dataset_config: str = ""
    """Of `hub`: the configuration, where it has several."""
    split: str = "train"
    """Of `hub`."""
    text_column: str = "text"
    """Of `hub`."""
    max_documents: int = 10_000
    """Of `hub`: stop after so many."""

    def __post_init__(self) -> None:
        if self.source == "installed" and not self.megabytes > 0:
            raise ConfigError(f"megabytes must be positive, not {self.megabytes}")


def gather(config: CorpusConfig) -> tuple[list[Document], dict[str, int]]:
    """All documents in a seeded order, and the kinds of which there was too little text, with the bytes found."""
    short: dict[str, int] = {}
    if config.source == "installed":
        documents, short = installed(config.seed, round(config.megabytes * 1e6), config.shares)
    elif config.source == "none":
        return [], {}
    else:
        raise ConfigError(f"source {config.source} is not there yet")
    if not documents:
        raise CorpusError(f"the corpus is empty: source {config.source} gave no document with text")
    random.Random(f"{config.seed}/order").shuffle(documents)
    return documents, short


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
    run: Run = artefact.read_run(path, "corpus")
    artefact.verify(path, run)
    with open(Path(path) / FILE, "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as packed:
        for line in io.TextIOWrapper(packed, encoding="utf-8", newline="\n"):
            yield Document(**json.loads(line))
