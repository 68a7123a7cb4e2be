"""Documents in, contexts out: drop duplicates, split by document, tokenize, pack.

Three passes over the documents (survey, train the tokenizer, encode), so that no more than one batch of text is held at a
time. What grows with the corpus: about 60 bytes a document in memory, and on disk, until the stage ends, the token ids
in the order of the corpus (2 or 4 bytes a token) beside the packed ones.
"""

import array
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from sae.errors import ConfigError, CorpusError
from sae.progress import ProgressBar
from sae.shapes import DocumentArray, TokenArray
from sae.shown import printable
from sae.source.corpus_document import Document
from sae.source.tokenizer import SMALLEST_VOCABULARY, TextTokenizer, pretrained_tokenizer, train_tokenizer
from sae.storage.tokens import CHUNK_CONTEXTS, NO_DOCUMENT, SPLITS, Blocks, token_dtype, write_tokens

TOKENIZER_BYTES = 100_000_000
"""Text that a tokenizer is trained on at most: its few thousand merges are settled long before that."""
LARGEST_VOCABULARY = 2**20
"""Four times that of any transformer known. Each id costs memory in the store and the transformer, so a stray one (a mask
that was stored without its sign, a hash) is told instead of becoming the size of everything."""
DROPPED = -1
"""Split of a document that is empty or occurred before; else its index in SPLITS."""


@dataclass(frozen=True, kw_only=True)
class TokensConfig:
    """Section `tokens`: how text becomes contexts of token ids."""

    source: Literal["corpus", "ids"] = "corpus"
    """The text of data/corpus, or `ids`: an array of token ids at `path`, for transformers over symbols."""
    tokenizer: str = "train"
    """corpus: `train` a byte-level BPE on the train documents, or a pretrained one: a folder, or a hub repository `owner/name`.
    With a pretrained transformer, name its own."""
    tokenizer_revision: str = ""
    """corpus: commit of the hub repository."""
    n_vocab: int | None = 4096
    """Ids of a tokenizer trained here. ids: every id is below it; None: largest id + 1."""
    context_length: int = 128
    """Positions of a context, BOS included. ids: only for a one-dimensional array, which is cut into contexts."""
    bos: bool | None = None
    """Whether position 0 of every context is BOS. None: yes for a corpus, no for ids. ids: true says that the rows of the array
    begin with one; nothing is put before them."""
    heldout_fraction: float = 0.15
    """Share of each kind's bytes (ids: of the rows) that goes, by whole documents, into the held-out split."""
    path: str = ""
    """ids: an .npy file, integers [context, position] (a row is a context and a document) or [position]."""
    pad: int | None = None
    """ids: the id of padding. Its predictions, and those made at it, count nowhere: not in losses, nor are their rows
    harvested, or in densities and examples. A position counts where the prediction made there, of the next token, does."""
    predicted: tuple[int, int] | None = None
    """ids: first and last position of the tokens that can be predicted, such as [7, 11] of a sum's digits; the others count
    nowhere, as with `pad`. The rows are those of the positions one before, where the predictions are made."""
    predicted_mask: str = ""
    """ids: an .npy file of the array's shape, true (or not 0) for each token whose prediction counts. With `pad` or `predicted`
    beside it a prediction must count by all."""
    seed: int = 0
    """Of the split and of the order of documents."""

    def __post_init__(self) -> None:
        if self.context_length < 2:
            raise ConfigError(f"context_length must be at least 2, not {self.context_length}")
        if not 0 < self.heldout_fraction < 1:
            raise ConfigError(f"heldout_fraction must be between 0 and 1, not {self.heldout_fraction}")
        if self.source == "ids" and not self.path:
            raise ConfigError("source ids needs a path, of an .npy file with token ids")
        self._check_counting()
        trained = self.source == "corpus" and self.tokenizer == "train"
        if trained and (self.n_vocab is None or self.n_vocab < SMALLEST_VOCABULARY):
            raise ConfigError(f"n_vocab must be at least {SMALLEST_VOCABULARY} (every byte, and end of text), not {self.n_vocab}")
        if self.n_vocab is not None and not 1 < self.n_vocab <= LARGEST_VOCABULARY:
            raise ConfigError(f"n_vocab must be at least 2 and at most {LARGEST_VOCABULARY:,}, not {self.n_vocab}")

    def _check_counting(self) -> None:
        if self.source != "ids" and (self.pad is not None or self.predicted is not None or self.predicted_mask):
            raise ConfigError("pad, predicted and predicted_mask are for source: ids; of a corpus every prediction counts")
        if self.pad is not None and self.pad < 0:
            raise ConfigError(f"'pad' = {self.pad}: must be a token id, at least 0")
        if self.predicted is not None and not 1 <= self.predicted[0] <= self.predicted[1]:
            raise ConfigError(
                f"'predicted' = {list(self.predicted)}: give the first and the last position, [first, last]; position 0 is "
                "predicted by nothing"
            )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is in a token store: the facts of its `Run`."""

    n_vocab: int
    context_length: int
    n_contexts: dict[str, int]
    """By split."""
    n_documents: dict[str, dict[str, int]]
    """By split and kind; duplicates and empty ones are in none."""
    n_tokens: dict[str, dict[str, int]]
    """In contexts, by split and kind: separators belong to the document that they end, BOS is not counted."""
    duplicates_dropped: int = 0
    """Documents whose text had occurred before."""
    duplicates_kept: int = 0
    """ids: rows that had occurred before. They tell how frequent a row is, so they stay, all in the split of the first."""
    empty_dropped: int = 0
    """Documents without text."""
    remainder_dropped: dict[str, int]
    """Tokens at the end of each split that fill no context."""
    bytes_per_token: float | None = None
    """UTF-8 bytes a token, over all documents; None for ids."""
    tokenizer: str | None = None
    """`train`, a folder as it was named, or a hub repository with its commit; None for ids."""
    largest_id: int | None = None
    """ids: the largest that occurs; a vocabulary much above it has rows that nothing trains."""
    ids_sha256: str | None = None
    """ids: digest of the file."""
    n_counted: dict[str, int] | None = None
    """ids: positions that count, by split; None where all do (`tokens.pad`, `tokens.predicted`, `tokens.predicted_mask`)."""
    mask_sha256: str | None = None
    """ids: digest of the file `tokens.predicted_mask`."""


class Survey(NamedTuple):
    """What the first pass finds out; every array is [document], in the order of the corpus."""

    kinds: tuple[str, ...]
    kind: np.ndarray
    """Index into `kinds`, int16."""
    n_bytes: np.ndarray
    """Of the text in UTF-8."""
    key: np.ndarray
    """Keyed hash of the text, uint64 [document, 2]: equal only for equal texts, random otherwise."""

    def splits(self, heldout_fraction: float) -> np.ndarray:
        """The split of each document, int8: an index into SPLITS, or DROPPED.

        Stratified: of each kind, the documents with the smallest keys are held out, as many as bring its share of bytes
        nearest to `heldout_fraction`, but at least one and not all. A kind with a single document is train.
        """
        split = np.full(len(self.kind), DROPPED, np.int8)
        order = np.lexsort((self.key[:, 1], self.key[:, 0]))  # stable: the first of equal texts stays first
        keys = self.key[order]
        new = np.ones(len(order), bool)
        new[1:] = (keys[1:] != keys[:-1]).any(1)
        kept = order[new & (self.n_bytes[order] > 0)]
        split[kept] = SPLITS.index("train")
        for kind in range(len(self.kinds)):
            documents = kept[self.kind[kept] == kind]
            held_out = documents[: n_heldout(self.n_bytes[documents], heldout_fraction)]
            split[held_out] = SPLITS.index("heldout")
        return split

    def by_kind(self, documents: np.ndarray, weights: np.ndarray | None = None) -> dict[str, int]:
        """Number of these documents, or sum of `weights` over them, of each kind."""
        counts = np.bincount(self.kind[documents], weights, minlength=len(self.kinds))
        return {kind: int(n) for kind, n in zip(self.kinds, counts, strict=True)}


class Encoded(NamedTuple):
    """Token ids of all kept documents, one after the other, each ended by a separator."""

    ids: np.ndarray
    start: np.ndarray
    """Where each document begins [document]."""
    length: np.ndarray
    """Its tokens, separator included; 0 where the document was dropped."""


def n_heldout(sizes: np.ndarray, fraction: float) -> int:
    """How many of the first `sizes` sum up nearest to `fraction` of all: at least one and not all (0 where there is but one)."""
    if len(sizes) < 2:
        return 0
    return 1 + int(np.argmin(np.abs(np.cumsum(sizes)[:-1] - fraction * sizes.sum())))


def survey(documents: Iterable[Document], seed: int) -> Survey:
    """First pass: kind, size and key of each document. Raises `CorpusError` where there is none, or one is no Unicode text."""
    kinds, kind, n_bytes, keys = dict[str, int](), array.array("h"), array.array("q"), bytearray()
    for number, document in enumerate(documents):
        try:
            text = document.text.encode()
        except UnicodeEncodeError as error:
            raise CorpusError(
                f"document {number} ({document.source}) is no Unicode text: {error}; mend it or leave it out"
            ) from None
        kind.append(kinds.setdefault(document.kind, len(kinds)))
        n_bytes.append(len(text))
        keys += hashlib.blake2b(text, key=str(seed).encode(), digest_size=16).digest()
    if not any(n_bytes):
        raise CorpusError(
            f"the corpus is empty ({len(kind)} documents, none with text): choose other sources in params, section corpus"
        )
    names = sorted(kinds)
    rank = np.array([names.index(name) for name in kinds], np.int16)
    key = np.frombuffer(bytes(keys), ">u8").reshape(-1, 2).astype(np.uint64)
    return Survey(tuple(names), rank[np.array(kind)], np.array(n_bytes, np.int64), key)


def make_contexts(read: Callable[[], Iterable[Document]], config: TokensConfig, folder: Path) -> Summary:
    """Fill `folder`, the draft of a token store, with the contexts of all documents.

    `read()` is called three times (twice with a pretrained tokenizer) and must give the same documents each time.
    Raises `CorpusError` where a split has too little text for one context.
    """
    found = survey(read(), config.seed)
    split = found.splits(config.heldout_fraction)
    tokenizer = _tokenizer(read, found, split, config)
    bos = None if config.bos is False else tokenizer.bos
    spool = folder / "ids"
    encoded = _encode(read, found, split, tokenizer, spool)
    orders = {name: np.flatnonzero(split == i) for i, name in enumerate(SPLITS)}
    orders = {name: order[np.argsort(found.key[order, 1], kind="stable")] for name, order in orders.items()}
    packed = {name: pack(encoded, orders[name], config.context_length, bos, name) for name in SPLITS}
    write_tokens(folder, {name: packed[name].blocks for name in SPLITS}, found.kind, found.kinds, tokenizer.vocabulary, bos)
    tokenizer.save(folder / "tokenizer")
    spool.unlink()
    dropped = split == DROPPED
    return Summary(
        n_vocab=len(tokenizer.vocabulary),
        context_length=config.context_length,
        n_contexts={name: packed[name].blocks.n_contexts for name in SPLITS},
        n_documents={name: found.by_kind(orders[name]) for name in SPLITS},
        n_tokens={name: found.by_kind(orders[name], packed[name].kept) for name in SPLITS},
        duplicates_dropped=int((dropped & (found.n_bytes > 0)).sum()),
        empty_dropped=int((dropped & (found.n_bytes == 0)).sum()),
        remainder_dropped={name: int(encoded.length[orders[name]].sum() - packed[name].kept.sum()) for name in SPLITS},
        bytes_per_token=float(found.n_bytes[~dropped].sum() / (encoded.length.sum() - (~dropped).sum())),
        tokenizer=tokenizer.origin,
    )


class Packed(NamedTuple):
    """One split, cut into contexts."""

    blocks: Blocks
    kept: np.ndarray
    """How many tokens of each document are in them, in the order of packing."""


def pack(encoded: Encoded, documents: np.ndarray, context_length: int, bos: int | None, name: str) -> Packed:
    """The documents of the split `name`, in this order, as one stream cut into contexts.

    Each context is BOS (where there is one) and the next tokens of the stream, so a context begins in the middle of a
    document as a rule. What does not fill the last context is left out. Raises `CorpusError` where that is everything.
    """
    width = context_length - (bos is not None)
    ends = np.cumsum(encoded.length[documents])
    total = int(ends[-1]) if len(ends) else 0
    n_contexts = total // width
    if n_contexts == 0:
        raise CorpusError(
            f"the {name} split has {total} tokens in {len(documents)} documents, too few for one context of {width}: give more "
            "text (section corpus), lower tokens.context_length, or change tokens.heldout_fraction"
        )
    kept = np.diff(np.minimum(ends, n_contexts * width), prepend=0)
    blocks = _blocks(encoded, documents, ends, n_contexts, width, bos)
    return Packed(Blocks(n_contexts=n_contexts, context_length=context_length, blocks=blocks), kept)


def _blocks(
    encoded: Encoded, documents: np.ndarray, ends: np.ndarray, n_contexts: int, width: int, bos: int | None
) -> Iterator[tuple[TokenArray, DocumentArray]]:
    for first in range(0, n_contexts, CHUNK_CONTEXTS):
        n = min(CHUNK_CONTEXTS, n_contexts - first)
        start, stop = first * width, (first + n) * width
        a, b = np.searchsorted(ends, [start, stop - 1], side="right")
        here = documents[a : b + 1]
        skipped = start - int(ends[a] - encoded.length[here[0]])
        stream = np.concatenate([encoded.ids[encoded.start[d] : encoded.start[d] + encoded.length[d]] for d in here])
        owner = np.repeat(here, encoded.length[here]).astype(np.int32)
        tokens = stream[skipped : skipped + stop - start].reshape(n, width)
        document = owner[skipped : skipped + stop - start].reshape(n, width)
        if bos is not None:
            tokens = np.insert(tokens, 0, bos, axis=1)
            document = np.insert(document, 0, NO_DOCUMENT, axis=1)
        yield tokens, document


def _tokenizer(read: Callable[[], Iterable[Document]], found: Survey, split: np.ndarray, config: TokensConfig) -> TextTokenizer:
    """Trained on train documents only: held-out text shall be new to every part of the transformer."""
    if config.tokenizer != "train":
        return pretrained_tokenizer(config.tokenizer, config.tokenizer_revision or None)
    assert config.n_vocab is not None
    train = np.flatnonzero(split == SPLITS.index("train"))
    train = train[np.argsort(found.key[train, 1], kind="stable")]
    chosen = np.zeros(len(split), bool)
    chosen[train[np.cumsum(found.n_bytes[train]) - found.n_bytes[train] < TOKENIZER_BYTES]] = True
    return train_tokenizer((document.text for document, use in zip(read(), chosen, strict=True) if use), config.n_vocab)


def _encode(
    read: Callable[[], Iterable[Document]], found: Survey, split: np.ndarray, tokenizer: TextTokenizer, spool: Path
) -> Encoded:
    """Ids of the kept documents, through the file `spool`, which the result maps into memory."""
    kept = split != DROPPED
    length = np.zeros(len(split), np.int64)
    dtype = token_dtype(len(tokenizer.vocabulary))
    texts = (document.text for document, keep in zip(read(), kept, strict=True) if keep)
    with ProgressBar("tokens", total=int(found.n_bytes[kept].sum())) as bar, open(spool, "wb") as file:
        for number, ids in zip(np.flatnonzero(kept), tokenizer.encode(texts), strict=True):
            file.write(np.array([*ids, tokenizer.separator], dtype).tobytes())
            length[number] = len(ids) + 1
            bar.advance(int(found.n_bytes[number]))
    return Encoded(np.memmap(spool, dtype, mode="r"), np.cumsum(length) - length, length)


def table(summary: Summary) -> str:
    """Documents and tokens by kind, the most tokens first."""
    documents, tokens = summary.n_documents, summary.n_tokens
    total = {kind: sum(tokens[name][kind] for name in SPLITS) for kind in tokens["train"]}
    everything = sum(total.values())
    lines = [f"{'kind':14}{'documents':>10}{'tokens':>12}{'held out':>12}{'share':>9}"]
    for kind in sorted(total, key=lambda kind: (-total[kind], kind)):
        n = sum(documents[name][kind] for name in SPLITS)
        lines.append(
            f"{printable(kind):14}{n:>10,}{total[kind]:>12,}{tokens['heldout'][kind]:>12,}{total[kind] / everything:>9.2%}"
        )
    return "\n".join(lines)
