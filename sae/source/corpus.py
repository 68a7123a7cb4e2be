"""Documents of text with their kind: composed from what is installed, read from files, or streamed from a hub."""

import math
import random
import re
from dataclasses import dataclass, field
from typing import Literal

from sae.errors import ConfigError, CorpusError
from sae.source.corpus_document import Document
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


def gather(config: CorpusConfig) -> tuple[list[Document], dict[str, int]]:
    """All documents in a seeded order, and the kinds of which there was too little text, with the bytes found.

    They are all in memory. Raises `CorpusError` where there is none.
    """
    short: dict[str, int] = {}
    if config.source == "none":
        return [], {}
    if config.source == "installed":
        documents, short = installed(config.seed, round(config.megabytes * 1e6), config.shares)
    elif config.source == "files":
        documents = list(read_files(config.files, config.text_field))
    else:
        wanted = HubText(config.dataset, config.revision, config.dataset_config, config.split, config.text_column)
        documents = list(read_hub(wanted, config.max_documents))
    if not documents:
        raise CorpusError(
            f"the corpus is empty: source '{config.source}' gave no document with text; see section corpus in params.yaml"
        )
    random.Random(f"{config.seed}/order").shuffle(documents)
    return documents, short
