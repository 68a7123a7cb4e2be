"""Documents of text with their kind: composed from what is installed, read from files, or streamed from a hub."""

import io
import itertools
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import zstandard
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from sae import artefact
from sae.errors import ConfigError, CorpusError, UnavailableError
from sae.source.corpus_document import Document, n_bytes
from sae.source.corpus_files import read_files, to_document
from sae.source.corpus_installed import KINDS, installed

FILE = "documents.jsonl.zst"
_COMMIT = re.compile("[0-9a-f]{40}")
_PATIENCE = 6.0
"""Seconds that the hub is given to answer at all."""

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
        documents = list(_hub(config))
    if not documents:
        raise CorpusError(
            f"the corpus is empty: source '{config.source}' gave no document with text; see section corpus in params"
        )
    random.Random(f"{config.seed}/order").shuffle(documents)
    return documents, short


def _hub(config: CorpusConfig) -> Iterator[Document]:
    """Up to `max_documents` records, streamed; from the local cache where the hub is out of reach."""
    import datasets  # here, for it takes a second and every reader of documents would pay it

    cached = _cached_snapshot(config)
    where, revision = (cached, None) if cached else (config.dataset, config.revision)
    advice = "set corpus.text_column"
    kind = config.dataset.rpartition("/")[2].lower()
    try:
        records = datasets.load_dataset(
            where, config.dataset_config or None, split=config.split, revision=revision, streaming=True
        )
        for number, record in enumerate(itertools.islice(records, config.max_documents)):
            document = to_document(record, config.text_column, f"{config.dataset}:{number}", kind, advice)
            if document:
                yield document
    except CorpusError:
        raise
    except (datasets.exceptions.DatasetNotFoundError, datasets.exceptions.DataFilesNotFoundError, ValueError) as error:
        raise ConfigError(
            f"{config.dataset} at {config.revision} has no such data (dataset_config '{config.dataset_config}', split "
            f"'{config.split}'): {error}"
        ) from None
    except (OSError, HTTPError) as error:
        raise _unavailable(config, error) from error


def _cached_snapshot(config: CorpusConfig) -> str:
    """The cache's folder of the pinned revision if the hub is out of reach; empty if the hub answers.

    `datasets` itself retries for 23 s before it gives up (measured, 5.2.0), and offline takes its newest cached version
    whatever the revision, so both are decided here. Raises `UnavailableError` where neither is there.
    """
    try:
        HfApi().dataset_info(config.dataset, revision=config.revision, timeout=_PATIENCE)
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code < 500:
            raise ConfigError(
                f"the hub has no data set {config.dataset} at {config.revision} for you ({error.response.status_code}): "
                "check the name and the commit, or log in (HF_TOKEN) if it is private or gated"
            ) from None
        unreachable: Exception = error
    except (OfflineModeIsEnabled, HTTPError, OSError) as error:
        unreachable = error
    except ValueError as error:
        raise ConfigError(f"dataset '{config.dataset}' is no name that a hub data set can have: {error}") from None
    else:
        return ""
    try:
        return snapshot_download(config.dataset, repo_type="dataset", revision=config.revision, local_files_only=True)
    except LocalEntryNotFoundError:
        raise _unavailable(config, unreachable) from unreachable


def _unavailable(config: CorpusConfig, error: Exception) -> UnavailableError:
    reason = str(error).strip().splitlines()
    return UnavailableError(
        f"cannot reach the hub for data set {config.dataset} ({type(error).__name__}: {reason[0] if reason else 'no reason'}), "
        f"and it is not in the cache. Check the network, or fill the cache on a machine that has one (hf download --repo-type "
        f"dataset {config.dataset} --revision {config.revision}), point HF_HOME at it and set HF_HUB_OFFLINE=1"
    )


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
