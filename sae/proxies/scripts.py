"""The proxy for a script (Arabic, Hebrew): text whose every character lies in some Unicode blocks.

By Bayes' rule P(s | script) / P(s) = P(script | s) / P(script): the unigram probability of s cancels. P(script | s) is 1
where s is whole characters of the blocks, FLOOR where it is not, so whitespace and punctuation between Arabic words
count as not Arabic. A single token that is no whole number of characters (byte-level BPE cuts rare ones) gets the
fraction of its sampled real occurrences in which all its characters, cut ones included, were of the blocks.
P(script) is that same P averaged over the sample's tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray

from sae.errors import ConfigError
from sae.proxies.likelihood import FLOOR, Proxy, Scorer, Scores, continues
from sae.proxies.sampling import Statistics
from sae.storage.tokens import NO_DOCUMENT, Contexts

Blocks = tuple[tuple[int, int], ...]
"""First and last code point of each block."""

DEAD, WHOLE = 0, 1
"""States of the reader of substrings: none that ends here is of the script; one does, and ends with a character.
Further states are the bytes of a character begun."""


@final
@dataclass(frozen=True, kw_only=True)
class Script(Proxy):
    """Text in the blocks given by their first and last code points."""

    blocks: Blocks

    def __post_init__(self) -> None:
        if not self.blocks or any(first > last for first, last in self.blocks):
            raise ConfigError(f"a script needs blocks (first, last) with first <= last, not {self.blocks}")

    def scorer(self, statistics: Statistics) -> Scorer:
        fractions = measure_fractions(statistics.sample, statistics.vocabulary, self.blocks)
        step = transitions(statistics.vocabulary, self.blocks)
        in_part = np.where([_is_part(text) for text in statistics.vocabulary], fractions.of_token, 0.0)
        log_single = np.log(np.maximum(in_part, FLOOR))

        def score(contexts: Contexts) -> Scores:
            tokens, document = contexts.tokens, contexts.document
            same = continues(document)
            state = np.zeros(len(tokens), dtype=step.dtype)
            scores = log_single[tokens]
            for j in range(tokens.shape[1]):
                state = step[np.where(same[:, j], state, DEAD), tokens[:, j]]
                scores[state == WHOLE, j] = 0.0
            scores -= np.log(fractions.overall)
            scores[document == NO_DOCUMENT] = np.nan
            return scores

        return score


class Fractions(NamedTuple):
    """Of a sample's tokens, how many have all their characters in the script."""

    of_token: Float[ndarray, " vocab"]
    """By token id; 0 for a token that the sample lacks."""
    overall: float
    """P(script), raised by half an occurrence so that it is never 0."""


def measure_fractions(sample: Contexts, vocabulary: Sequence[bytes], blocks: Blocks) -> Fractions:
    """Look at every token of the sample in its place, where the characters that it is part of are known.

    Occurrences whose character the edge of the context cuts off are left out.
    """
    kept = sample.document != NO_DOCUMENT
    ids = sample.tokens[kept].astype(np.int64)
    run = np.cumsum(~continues(sample.document).ravel())[kept.ravel()]
    lengths = np.array([len(text) for text in vocabulary])[ids]
    offsets = np.concatenate(([0], np.cumsum([len(text) for text in vocabulary])))[ids]
    ends = np.cumsum(lengths)
    index = np.arange(lengths.sum()) + np.repeat(offsets - (ends - lengths), lengths)
    stream = np.frombuffer(b"".join(vocabulary), dtype=np.uint8)[index]
    known, inside = _characters_in(stream, np.repeat(run, lengths), blocks)

    def all_of(flags: Bool[ndarray, " byte"]) -> Bool[ndarray, " token"]:
        total = np.concatenate(([0], np.cumsum(flags)))
        return (total[ends] - total[ends - lengths] == lengths) & (lengths > 0)

    usable, in_script = all_of(known), all_of(inside)
    seen = np.bincount(ids[usable], minlength=len(vocabulary))
    found = np.bincount(ids[in_script], minlength=len(vocabulary))
    overall = (found.sum() + 0.5) / (seen.sum() + 1.0)
    return Fractions(found / np.maximum(seen, 1), float(overall))


def _characters_in(
    stream: UInt8[ndarray, " byte"], run: Int[ndarray, " byte"], blocks: Blocks
) -> tuple[Bool[ndarray, " byte"], Bool[ndarray, " byte"]]:
    """Of each byte, whether its whole character is there (within its `run` of text), and whether that lies in the blocks."""
    place = np.arange(len(stream))
    lead = (stream & 0xC0) != 0x80
    size = np.select([stream < 0x80, stream < 0xC0, stream < 0xE0, stream < 0xF0, stream < 0xF8], [1, 0, 2, 3, 4], 0)
    code = np.where(size <= 1, stream, stream & (0x7F >> size)).astype(np.int64)
    whole = lead & (size > 0)
    for k in range(1, 4):
        after = np.minimum(place + k, len(stream) - 1)
        there = (place + k < len(stream)) & ((stream[after] & 0xC0) == 0x80) & (run[after] == run)
        whole &= (size <= k) | there
        code = np.where(size > k, (code << 6) | (stream[after] & 0x3F), code)
    inside = whole & np.any([(code >= first) & (code <= last) for first, last in blocks], axis=0)
    start = np.maximum.accumulate(np.where(lead, place, 0))
    belongs = (place - start < size[start]) & (run[start] == run)
    return belongs & whole[start], belongs & inside[start]


def transitions(vocabulary: Sequence[bytes], blocks: Blocks) -> Int[ndarray, "state vocab"]:
    """The state after each token, given the state before it.

    A substring of several tokens is of the script where its bytes together are whole characters of the blocks. One that
    starts afresh at a token can do no worse than one that goes on after a whole character, so what came before matters
    only to a token that starts within a character: one row for each beginning of a character of the blocks.
    """
    pending = _beginnings(blocks)
    number = {b"": WHOLE, **{text: 2 + i for i, text in enumerate(pending)}}
    afresh = [number.get(_rest(text, blocks), DEAD) if text else DEAD for text in vocabulary]
    step = np.tile(np.array(afresh, dtype=np.int64), (2 + len(pending), 1))
    within = [token for token, text in enumerate(vocabulary) if text and text[0] & 0xC0 == 0x80]
    for text in pending:
        for token in within:
            step[number[text], token] = number.get(_rest(text + vocabulary[token], blocks), DEAD)
    return step


_REJECTED = b"\xff"
"""No beginning of any character."""


def _rest(text: bytes, blocks: Blocks) -> bytes:
    """The bytes left over when whole characters of the blocks are taken off the front; `_REJECTED` if another is met."""
    for length in range(len(text), max(len(text) - 4, -1), -1):
        try:
            characters = text[:length].decode("utf-8")
        except UnicodeDecodeError:
            continue
        inside = all(any(first <= ord(c) <= last for first, last in blocks) for c in characters)
        return text[length:] if inside else _REJECTED
    return _REJECTED


def _beginnings(blocks: Blocks) -> list[bytes]:
    """Every proper beginning, in bytes, of a character of the blocks (surrogates have no bytes)."""
    codes = (code for first, last in blocks for code in range(first, last + 1) if not 0xD800 <= code <= 0xDFFF)
    encoded = [chr(code).encode("utf-8") for code in codes]
    return sorted({text[:length] for text in encoded for length in range(1, len(text))})


def _is_part(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False
