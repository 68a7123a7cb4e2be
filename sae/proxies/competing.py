"""A proxy for text of evenly drawn characters (base64, hexadecimal, DNA) that asks what else it might be.

The paper's proxy compares with the tokens' unigram probabilities, in which any rare token is surprising: base64's is positive on
a seventh of all text. Here models of characters compete for the text, one for each kind and one of what the corpus is like
otherwise, and the score is how far one of them is ahead after each token.
"""

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, UInt8, UInt64
from numpy import ndarray

from sae.errors import ConfigError
from sae.proxies.likelihood import FLOOR, Proxy, Scorer, Scores, continues
from sae.proxies.sampling import Statistics
from sae.storage.tokens import NO_DOCUMENT, Contexts

KINDS: dict[str, tuple[str, ...]] = {
    "base64": (string.ascii_letters + string.digits + "+/",),
    "hexadecimal": (string.digits + "abcdef", string.digits + "ABCDEF"),
    "dna": ("ACGT", "acgt"),
}
"""Those that compete, each with its alphabets: text of a kind keeps to one of them."""
SEPARATORS = " \n\t\r:-,;'\"=x"
"""What stands between characters of such text, in lines, dumps and escapes."""
P_SEPARATOR = 0.05
"""Of a character of such text to be one of them."""
P_STAYS, P_BEGINS = 0.99, 1e-4
"""From a token to the next: that text of an alphabet goes on; that other text turns into text of one alphabet."""
LONGEST = 7
"""Bytes that fit a 64-bit key, with one to spare."""
LEAST = 1e-30
"""Below which no probability falls, so that what is impossible here may come back."""


@final
@dataclass(frozen=True, kw_only=True)
class Competing(Proxy):
    """log P(the kind | the text up to this token) / P(anything else), nats, by a hidden Markov model.

    Its states are the corpus at large (`ByteModel`) and each alphabet of `KINDS`, whose characters are drawn evenly; the forward
    algorithm filters them token by token, anew in each document of each context."""

    kind: str
    """One of `KINDS`."""
    order: int = 2
    """Bytes that the corpus's model looks at, the predicted one included. Longer ones learn the kind's own text by heart."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"no competing model of {self.kind!r}; there are {', '.join(KINDS)}")
        if not 1 <= self.order <= LONGEST:
            raise ConfigError(f"'order' = {self.order}: must be 1 to {LONGEST}")

    def scorer(self, statistics: Statistics) -> Scorer:
        spelling = Spelling(statistics.vocabulary)
        corpus = ByteModel(spelling.read(statistics.sample).windows(self.order), self.order)
        alphabets = [(kind, alphabet) for kind, of_kind in KINDS.items() for alphabet in of_kind]
        even = np.stack([evenly(alphabet, statistics.vocabulary) for _, alphabet in alphabets], axis=-1)
        mine = np.array([kind == self.kind for kind in ("corpus", *(kind for kind, _ in alphabets))])

        def score(contexts: Contexts) -> Scores:
            text = spelling.read(contexts)
            log_p = np.zeros((*contexts.tokens.shape, len(mine)))
            log_p[text.kept, 0] = text.sum_by_token(corpus.log(text.windows(self.order)))
            log_p[..., 1:] = even[contexts.tokens]
            p = filtered(log_p, continues(contexts.document))
            p[contexts.document == NO_DOCUMENT] = np.nan
            return np.log(p[..., mine].sum(-1)) - np.log(p[..., ~mine].sum(-1))

        return score


def evenly(alphabet: str, vocabulary: Sequence[bytes]) -> Float64[ndarray, " vocab"]:
    """log P of each token where characters are drawn evenly from `alphabet`, `P_SEPARATOR` of them from `SEPARATORS`, nats; any
    other, or a run of bytes that is no whole character, has probability `FLOOR`."""
    separators = set(SEPARATORS) - set(alphabet)
    log_p = dict.fromkeys(separators, math.log(P_SEPARATOR / len(separators)))
    log_p |= dict.fromkeys(alphabet, math.log((1 - P_SEPARATOR) / len(alphabet)))
    outside = math.log(FLOOR)
    return np.array([sum(log_p.get(c, outside) for c in token.decode("utf-8", errors="replace")) for token in vocabulary])


def filtered(
    log_p: Float64[ndarray, "context position state"], goes_on: Bool[ndarray, "context position"]
) -> Float64[ndarray, "context position state"]:
    """P(state | all tokens up to here), where state 0 is the corpus at large, and text begins anew where it does not go on."""
    n = log_p.shape[-1]
    step = np.zeros((n, n))
    step[0], step[1:, 0] = P_BEGINS, 1 - P_STAYS
    step[np.arange(n), np.arange(n)] = [1 - (n - 1) * P_BEGINS, *[P_STAYS] * (n - 1)]
    prior = np.full(n, P_BEGINS / (1 - P_STAYS))  # what the chain comes to: as much enters a state as leaves it
    prior[0] = 1.0
    prior /= prior.sum()
    found = np.empty_like(log_p)
    for j in range(log_p.shape[1]):
        before = np.where(goes_on[:, j, None], found[:, j - 1] @ step, prior)
        p = np.log(before) + log_p[:, j]
        p = np.exp(p - p.max(-1, keepdims=True))
        found[:, j] = np.maximum(p / p.sum(-1, keepdims=True), LEAST)
    return found


class Bytes(NamedTuple):
    """The bytes of some contexts' tokens, end to end."""

    kept: Bool[ndarray, "context position"]
    """Which positions have text: all but BOS."""
    values: UInt8[ndarray, " byte"]
    token: Int64[ndarray, " byte"]
    """To which of the kept tokens it belongs."""
    since: Int64[ndarray, " byte"]
    """Bytes of the same document in the same context before it."""

    def windows(self, order: int) -> UInt64[ndarray, " byte"]:
        """Each byte with the order - 1 before it, the byte itself lowest; zeros before the text's beginning."""
        found = np.zeros(len(self.values), np.uint64)
        for back in range(order - 1, -1, -1):
            there = np.flatnonzero(self.since >= back)
            found <<= np.uint64(8)
            found[there] |= self.values[there - back].astype(np.uint64)
        return found

    def sum_by_token(self, values: Float64[ndarray, " byte"]) -> Float64[ndarray, " token"]:
        """Sums over the bytes of each kept token; 0 for one of no bytes."""
        return np.bincount(self.token, weights=values, minlength=int(self.kept.sum()))


class Spelling:
    """The bytes of each token."""

    def __init__(self, vocabulary: Sequence[bytes]):
        self._bytes = np.frombuffer(b"".join(vocabulary), np.uint8)
        self._lengths = np.array([len(token) for token in vocabulary], np.int64)
        self._starts = np.cumsum(self._lengths) - self._lengths

    def read(self, contexts: Contexts) -> Bytes:
        kept = contexts.document != NO_DOCUMENT
        ids = contexts.tokens[kept].astype(np.int64)
        lengths = self._lengths[ids]
        token = np.repeat(np.arange(len(ids)), lengths)
        start = np.cumsum(lengths) - lengths  # of each token among the bytes
        values = self._bytes[np.arange(len(token)) - start[token] + self._starts[ids][token]]
        run = np.cumsum(~continues(contexts.document)[kept]) - 1
        begin = start[np.searchsorted(run, np.arange(run[-1] + 1 if len(run) else 0))]
        return Bytes(kept, values, token, np.arange(len(token)) - begin[run[token]])


class ByteModel:
    """P(byte | the bytes before), of all orders up to one, each interpolated with the one below by Witten and Bell's rule:

    P_k(b | h) = (c(hb) + T(h) P_{k-1}(b | h')) / (c(h) + T(h)), with T(h) the number of different bytes seen after h, h' the
    history without its first byte, and P_0 = 1/256 (Witten & Bell 1991, method C)."""

    def __init__(self, windows: UInt64[ndarray, " byte"], order: int):
        self._orders = [_Order.of(windows & _mask(k)) for k in range(1, order + 1)]

    def log(self, windows: UInt64[ndarray, " byte"]) -> Float64[ndarray, " byte"]:
        """Natural logarithms of the probability of each window's lowest byte after the others."""
        p: Float[ndarray, " byte"] = np.full(len(windows), 1 / 256)
        for k, order in enumerate(self._orders, start=1):
            keys = windows & _mask(k)
            n, n_different = _look(order.histories, keys >> np.uint64(8), order.n_after, order.n_different)
            (times,) = _look(order.grams, keys, order.n_times)
            seen = n > 0
            p = np.where(seen, (times + n_different * p) / np.maximum(n + n_different, 1), p)
        return np.log(p)


class _Order(NamedTuple):
    """What was counted of windows of one length."""

    grams: UInt64[ndarray, " gram"]
    n_times: Int64[ndarray, " gram"]
    histories: UInt64[ndarray, " history"]
    n_after: Int64[ndarray, " history"]
    n_different: Int64[ndarray, " history"]

    @classmethod
    def of(cls, windows: UInt64[ndarray, " byte"]) -> "_Order":
        grams, n_times = np.unique(windows, return_counts=True)
        histories, first, n_different = np.unique(grams >> np.uint64(8), return_index=True, return_counts=True)
        return cls(grams, n_times, histories, np.add.reduceat(n_times, first) if len(first) else n_times, n_different)


def _mask(n_bytes: int) -> np.uint64:
    return np.uint64((1 << 8 * n_bytes) - 1)


def _look(keys: ndarray, wanted: ndarray, *values: ndarray) -> list[ndarray]:
    """The `values` at the sorted `keys` that are `wanted`, 0 where they are not among them."""
    if not len(keys):
        return [np.zeros(len(wanted), np.int64) for _ in values]
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return [np.where(keys[at] == wanted, each[at], 0) for each in values]
