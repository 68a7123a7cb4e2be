"""`TokenStore`: the text as the transformer sees it, contexts of token ids, split by document.

On disk, under `tokens.zarr`: for each split `<split>/tokens` and `<split>/document`, both [context, position]; and
`document_kind` [document], the index into `kinds` of what each document is. BOS carries document -1; a separator belongs to
the document that it ends. Where not every prediction counts (padding, digits of a sum that come by chance), `<split>/counts`
[context, position] says which do.
Beside it `vocabulary.json`, each token's bytes in base64 (a token may be part of a character, so not every token is
text), and in `tokenizer/` the tokenizer itself where there is one.

A document's number is its place in the corpus (line of documents.jsonl.zst, from 0), or its row in an array of ids.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from sae import artefact
from sae.errors import StoreError
from sae.opened import Opened, steadily
from sae.paths import given
from sae.provenance import Run
from sae.shapes import Counts, DocumentArray, KindArray, TokenArray, Tokens
from sae.storage import arrays

SPLITS = ("train", "heldout")
NO_DOCUMENT = -1
CHUNK_CONTEXTS = 4096


class Contexts(NamedTuple):
    """Some contexts of one split."""

    tokens: TokenArray
    """Token ids [context, position], uint16 or uint32."""
    document: DocumentArray
    """The document each token is from [context, position], int32; -1 for BOS."""
    kind: KindArray
    """Index into the store's `kinds` of what that document is [context, position], int16; -1 for BOS."""
    counts: Counts
    """Whether a position counts [context, position]: its row of activations, and the prediction made there, of the token after
    it. True everywhere but where the tokens were made with padding or a mask."""

    @classmethod
    def whole(cls, tokens: TokenArray, document: DocumentArray, kind: KindArray) -> "Contexts":
        """Contexts of which every position counts."""
        return cls(tokens, document, kind, np.ones(tokens.shape, bool))

    def part(self, which: slice | np.ndarray) -> "Contexts":
        """Some of them: a slice, or a mask or indices [context]."""
        return Contexts(*(array[which] for array in self))

    def kept(self, *, skip_bos: bool = True) -> Counts:
        """Positions whose rows enter statistics [context, position]: those that count, without BOS unless it is asked for."""
        return self.counts & (self.document != NO_DOCUMENT) if skip_bos else self.counts

    @property
    def predicted(self) -> Counts:
        """Which predictions enter a loss [context, position - 1]: entry t is the one of token t + 1."""
        return self.counts[:, :-1]

    @property
    def known(self) -> Counts:
        """Tokens of documents that enter a count of the vocabulary [context, position]: those whose prediction counts, and the
        first of a context where its position does."""
        known = self.document != NO_DOCUMENT
        known[:, 0] &= self.counts[:, 0]
        known[:, 1:] &= self.counts[:, :-1]
        return known


class Sequences(NamedTuple):
    """Contexts without their documents: what a transformer is trained on, and losses are measured on."""

    tokens: TokenArray
    """Token ids [context, position]."""
    predicted: Counts
    """Which predictions count [context, position - 1]: entry t is the one of token t + 1."""

    def part(self, which: slice | np.ndarray) -> "Sequences":
        """Some of them: a slice, or indices [context]."""
        return Sequences(self.tokens[which], self.predicted[which])

    @classmethod
    def whole(cls, tokens: TokenArray) -> "Sequences":
        """All of whose predictions count; the mask takes no memory."""
        return cls(tokens, np.broadcast_to(np.True_, (len(tokens), max(tokens.shape[1] - 1, 0))))


def mask_tensor(mask: Counts, device: str | torch.device = "cpu") -> Bool[Tensor, "_ _"]:
    """A mask of positions or predictions on `device`."""
    return torch.from_numpy(np.array(mask)).to(device)


def to_tensor(tokens: TokenArray, device: str | torch.device = "cpu") -> Tokens:
    """Token ids as an `ActivationSource` takes them: int64 on `device` (they travel as int32, half the bytes)."""
    return torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int32)).to(device).long()


class Split:
    """One split of a TokenStore: `split[10:20]` gives those contexts, `split.batches(32)` runs over all in order."""

    def __init__(
        self,
        tokens: arrays.Array,
        document: arrays.Array,
        document_kind: np.ndarray,
        counts: arrays.Array | None = None,
        opened: Opened | None = None,
    ):
        self._reading = nullcontext if opened is None else opened.reading
        self._tokens, self._document, self._document_kind = tokens, document, document_kind
        self._counts = counts
        self.n_contexts, self.context_length = tokens.shape

    @property
    def masked(self) -> bool:
        """Whether some positions do not count."""
        return self._counts is not None

    @property
    def n_tokens(self) -> int:
        """All positions, BOS included."""
        return self.n_contexts * self.context_length

    def __getitem__(self, contexts: slice) -> Contexts:
        """Raises `StoreError` where another store has taken the place of this one."""
        with self._reading():
            tokens = arrays.read(self._tokens, contexts)
            document = arrays.read(self._document, contexts)
            counts = None if self._counts is None else arrays.read(self._counts, contexts) == 1
        kind = np.where(document == NO_DOCUMENT, np.int16(-1), self._document_kind[document]).astype(np.int16)
        if counts is None:
            return Contexts.whole(tokens, document, kind)
        return Contexts(tokens, document, kind, counts)

    def sequences(self) -> Sequences:
        """All contexts, without their documents, in memory. Raises `StoreError` as above."""
        everything = slice(0, self.n_contexts)
        with self._reading():
            tokens = arrays.read(self._tokens, everything)
            counts = None if self._counts is None else arrays.read(self._counts, everything)
        return Sequences.whole(tokens) if counts is None else Sequences(tokens, counts[:, :-1] == 1)

    def batches(self, n_contexts: int, *, start: int = 0, limit: int | None = None) -> Iterator[Contexts]:
        """Consecutive batches of at most `n_contexts`, over the first `limit` contexts (all where None); those of them that begin
        at context `start` or later."""
        end = self.n_contexts if limit is None else min(limit, self.n_contexts)
        for block_start in range(start - start % CHUNK_CONTEXTS, end, CHUNK_CONTEXTS):
            block = self[block_start : min(block_start + CHUNK_CONTEXTS, end)]
            for first in range(0, len(block.tokens), n_contexts):
                if block_start + first >= start:
                    yield block.part(slice(first, first + n_contexts))

    def batch_starts(self, n_contexts: int, limit: int) -> list[int]:
        """The first contexts of those batches."""
        blocks = range(0, limit, CHUNK_CONTEXTS)
        return [start for block in blocks for start in range(block, min(block + CHUNK_CONTEXTS, limit), n_contexts)]


class TokenStore:
    """A committed token store, opened with `TokenStore.open(path)`."""

    def __init__(self, path: Path, run: Run, group: arrays.Group, vocabulary: list[bytes]):
        self.path, self.run, self.vocabulary = path, run, vocabulary
        self._group = group
        self.kinds: tuple[str, ...] = tuple(group.attrs["kinds"])  # type: ignore[arg-type]
        """Names of the kinds of document; `Contexts.kind` indexes this."""
        self.bos: int | None = group.attrs["bos"]  # type: ignore[assignment]
        """The id at position 0 of every context, or None where contexts were made without one."""
        self.masked = bool(group.attrs.get("masked", False))
        """Whether some positions do not count: `Contexts.counts`."""
        self._document_kind = arrays.read_array(group, "document_kind")
        self._opened = Opened(path)

    @property
    def n_vocab(self) -> int:
        return len(self.vocabulary)

    @property
    def context_length(self) -> int:
        return self.split("train").context_length

    def split(self, name: str) -> Split:
        """`train` or `heldout`."""
        if name not in SPLITS:
            raise StoreError(f"no split '{name}' in a token store; there are {', '.join(SPLITS)}")
        return Split(
            arrays.get_array(self._group, f"{name}/tokens"),
            arrays.get_array(self._group, f"{name}/document"),
            self._document_kind,
            arrays.get_array(self._group, f"{name}/counts") if self.masked else None,
            self._opened,
        )

    def text(self, ids: Sequence[int] | np.ndarray) -> str:
        """The ids' bytes as text; bytes that are no whole character show as U+FFFD."""
        return b"".join(self.vocabulary[int(i)] for i in ids).decode("utf-8", errors="replace")

    @property
    def tokenizer_path(self) -> Path | None:
        """The folder of the tokenizer's files, or None for a store made from ids."""
        path = self.path / "tokenizer"
        return path if path.is_dir() else None

    @classmethod
    def open(cls, path: str | Path) -> "TokenStore":
        """Raises `StoreError` where the store is missing, unfinished or damaged (all its bytes are read: about 1 s a GB)."""
        path = given(path)
        return steadily(path, lambda: cls._open(path))

    @classmethod
    def _open(cls, path: Path) -> "TokenStore":
        run = artefact.read_run(path, "tokens", made_by="dvc repro tokens")
        artefact.verify(path, run)
        group = arrays.open_group(path / "tokens.zarr", run)
        encoded = json.loads((path / "vocabulary.json").read_text(encoding="ascii"))
        return cls(path, run, group, [base64.b64decode(token) for token in encoded])


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A split too large for memory, to be written block by block."""

    n_contexts: int
    context_length: int
    blocks: Iterable[tuple[np.ndarray, ...]]
    """Tokens and documents of CHUNK_CONTEXTS contexts each (the last block: what is left); in a masked store a third array,
    what counts. No jaxtyping alias here: it would bind `context` to one block's size and refuse the last block, whenever
    beartype's random pick falls on it."""


def write_tokens(
    path: Path,
    splits: Mapping[str, tuple[np.ndarray, ...] | Blocks],
    document_kind: np.ndarray,
    kinds: Sequence[str],
    vocabulary: Sequence[bytes],
    bos: int | None,
    *,
    masked: bool = False,
) -> None:
    """Fill the draft directory `path` of a token store; tokens become uint16 where the vocabulary allows it.

    `masked`: every block has a third array, which of its positions count (`Contexts.counts`)."""
    attributes: dict[str, Any] = {"kinds": list(kinds), "bos": bos, "n_vocab": len(vocabulary)}
    if masked:
        attributes["masked"] = True
    group = arrays.create_group(path / "tokens.zarr", attributes)
    arrays.write_array(group, "document_kind", document_kind.astype(np.int16), ("document",))
    for name in SPLITS:
        split = splits[name]
        if not isinstance(split, Blocks):
            n_contexts, context_length = split[0].shape
            split = Blocks(n_contexts=n_contexts, context_length=context_length, blocks=[split])
        _write_split(group.create_group(name), split, token_dtype(len(vocabulary)), masked=masked)
    encoded = [base64.b64encode(token).decode("ascii") for token in vocabulary]
    (path / "vocabulary.json").write_text(json.dumps(encoded, indent=0), encoding="ascii")


def token_dtype(n_vocab: int) -> np.dtype[Any]:
    """The smaller of uint16 and uint32 that holds every id."""
    return np.dtype(np.uint16 if n_vocab <= 2**16 else np.uint32)


def _write_split(group: arrays.Group, split: Blocks, dtype: np.dtype[Any], *, masked: bool) -> None:
    shape, axes = (split.n_contexts, split.context_length), ("context", "position")
    names = {"tokens": dtype, "document": np.dtype(np.int32)}
    if masked:
        names["counts"] = np.dtype(np.uint8)
    written = {name: arrays.create_array(group, name, shape, of, axes, chunk_rows=CHUNK_CONTEXTS) for name, of in names.items()}
    start = 0
    for block in split.blocks:
        end = start + len(block[0])
        for (name, array), part in zip(written.items(), block, strict=True):
            array[start:end] = part.astype(names[name])
        start = end
    assert start == split.n_contexts
