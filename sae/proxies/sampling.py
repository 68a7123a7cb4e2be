"""What the proxies know of the train split, and random contexts of a split."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from sae.errors import CorpusError
from sae.storage.tokens import CHUNK_CONTEXTS, Contexts, Split, TokenStore

SMOOTHING = 0.5
"""Added to every token's count, so that an id unseen in train has P = 0.5 / N rather than 0. Half an occurrence
(Jeffreys' prior) moves the log-probability of a token seen 100 times by 0.005 nats."""


class Statistics(NamedTuple):
    """What the proxies know of the train split."""

    vocabulary: Sequence[bytes]
    log_unigram: Float[ndarray, " vocab"]
    """log P of each token id, nats, smoothed; over all tokens of documents (`Contexts.known`), so BOS counts for nothing."""
    sample: Contexts
    """Randomly chosen train contexts, for P(script) and for tokens that are part of a character."""
    kinds: tuple[str, ...] = ()
    """Of documents; `Contexts.kind` counts through them."""


def measure(store: TokenStore, n_sample: int, seed: int) -> Statistics:
    """Unigram probabilities of the whole train split, and a sample of at least `n_sample` of its tokens (or all).

    Raises `CorpusError` where the train split holds no token of any document.
    """
    split = store.split("train")
    counts = np.zeros(store.n_vocab, dtype=np.int64)
    for block in split.batches(CHUNK_CONTEXTS):
        counts += np.bincount(block.tokens[block.known].astype(np.int64), minlength=store.n_vocab)
    if not counts.sum():
        raise CorpusError(f"the train split of {store.path} holds no tokens; make it from more text")
    parts = list(read_contexts(split, choose_contexts(split, n_sample, seed)))
    sample = Contexts(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return Statistics(store.vocabulary, log_probabilities(counts), sample, store.kinds)


def log_probabilities(counts: ndarray) -> Float[ndarray, " vocab"]:
    """log P of each token from its count, nats, each count raised by `SMOOTHING`."""
    smoothed = counts + SMOOTHING
    return np.log(smoothed / smoothed.sum())


def choose_contexts(split: Split, n_tokens: int, seed: int) -> Bool[ndarray, " n_contexts"]:
    """A mask of randomly chosen contexts with at least `n_tokens` positions between them, or all of the split.

    Random rather than the first ones, so that it does not matter in which order the documents were packed.
    """
    wanted = min(split.n_contexts, max(1, -(-n_tokens // split.context_length)))
    chosen = np.zeros(split.n_contexts, dtype=bool)
    chosen[np.random.default_rng(seed).choice(split.n_contexts, wanted, replace=False)] = True
    return chosen


def read_contexts(split: Split, chosen: Bool[ndarray, " n_contexts"], block: int = CHUNK_CONTEXTS) -> Iterator[Contexts]:
    """The chosen contexts in their order, read `block` contexts of the split at a time."""
    start = 0
    for contexts in split.batches(block):
        mask = chosen[start : start + len(contexts.tokens)]
        start += len(mask)
        if mask.any():
            yield contexts.part(mask)
