"""Documents of text with their kind: composed from what is installed, read from files, or streamed from a hub."""

import math
import random
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sae.errors import ConfigError, CorpusError
from sae.source.corpus_document import (
    LONE_PARTS,
    SHORTEST_PART,
    Document,
    Spool,
    Tally,
    in_parts,
    n_bytes,
    write_documents,
)
from sae.source.corpus_files import read_files
from sae.source.corpus_hub import HubText, read_hub
from sae.source.corpus_installed import KINDS, installed

_COMMIT = re.compile("[0-9a-f]{40}")

SHARES = {
    "english": 45.0, "python": 32.0, "cpp": 11.0, "markdown": 3.0, "json": 1.5, "javascript": 0.2, "pem": 0.1,
    "arabic": 0.3, "hebrew": 0.3, "russian": 0.25, "greek": 0.25, "chinese": 0.2, "japanese": 0.25, "korean": 0.2,
    "hindi": 0.1, "bengali": 0.1, "tamil": 0.1, "thai": 0.1, "armenian": 0.08, "georgian": 0.1, "amharic": 0.08,
    "dna": 0.28, "base64": 0.22, "hexadecimal": 0.22,
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
    """Of `files`: globs of txt, jsonl, jsonl.zst, parquet. A document of more than 1 MB, and one that is the only one of its
    kind, is cut into parts: they are documents of their own, some of them held out."""
    text_field: str = "text"
    """Of `files`: the field (column) that holds a document's text, or a field within one, as in `message.text`; `kind` is read
    too where there is one."""
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
        if self.source == "installed":
            if not 0 < self.megabytes < math.inf:
                raise ConfigError(f"megabytes must be positive, not {self.megabytes}")
            if unknown := sorted(set(self.shares) - set(KINDS)):
                raise ConfigError(
                    f"shares names kinds that cannot be made: {', '.join(unknown)}; known: {', '.join(sorted(KINDS))}"
                )
            if not all(0 <= share < math.inf for share in self.shares.values()) or not sum(self.shares.values()):
                raise ConfigError(f"shares must not be negative, and one of them positive: {self.shares}")
        if self.source == "files" and not self.files:
            raise ConfigError("source 'files' needs at least one glob in files, as in files: ['texts/**/*.txt']")
        if self.source == "hub":
            if not self.dataset:
                raise ConfigError("source 'hub' needs the data set's name in dataset, as in dataset: owner/name")
            if not _COMMIT.fullmatch(self.revision):
                raise ConfigError(
                    f"source 'hub' needs the full commit of {self.dataset} in revision (40 hexadecimal digits), not "
                    f"'{self.revision}': a branch or tag may move; the hub shows it under 'Files', 'History'"
                )
            if self.max_documents < 1:
                raise ConfigError(f"max_documents must be at least 1, not {self.max_documents}")


def write_corpus(config: CorpusConfig, folder: Path) -> dict[str, Any]:
    """Write all documents in a seeded order into `folder`, the draft of a corpus; returns the manifest, and as `short` the kinds
    of which there was too little text, with the bytes found.

    One document is held at a time (of `installed` all). Raises `CorpusError` where there is none.
    """
    documents, short = gather(config)
    spooled = folder / "spool"
    found, tally = Tally(), Tally()
    with Spool(spooled) as spool:
        for document in documents:
            found.add(document)
            spool.add(document)
        if not len(spool) and config.source != "none":
            raise CorpusError(
                f"the corpus is empty: source '{config.source}' gave no document with text; see section corpus in params.yaml"
            )
        order = list(range(len(spool)))
        random.Random(f"{config.seed}/order").shuffle(order)
        lone = {kind for kind, n in found.n_documents.items() if n == 1 and config.source in ("files", "hub")}
        write_documents(_counted(_lone_in_parts((spool[i] for i in order), lone), tally), folder)
    spooled.unlink()
    return {**tally.manifest(), "short": short}


def gather(config: CorpusConfig) -> tuple[Iterable[Document], dict[str, int]]:
    """All documents as they are found, and the kinds of which there was too little text, with the bytes found."""
    if config.source == "none":
        return [], {}
    if config.source == "installed":
        return installed(config.seed, round(config.megabytes * 1e6), config.shares)
    if config.source == "files":
        return read_files(config.files, config.text_field), {}
    wanted = HubText(config.dataset, config.revision, config.dataset_config, config.split, config.text_column)
    return read_hub(wanted, config.max_documents), {}


def _lone_in_parts(documents: Iterable[Document], kinds: Container[str]) -> Iterator[Document]:
    """`documents` with those of these `kinds` cut in parts, where they are long enough for two."""
    for document in documents:
        if document.kind in kinds:
            yield from in_parts(document, 2 * SHORTEST_PART, max(SHORTEST_PART, n_bytes(document.text) // LONE_PARTS))
        else:
            yield document


def _counted(documents: Iterable[Document], tally: Tally) -> Iterator[Document]:
    for document in documents:
        tally.add(document)
        yield document
