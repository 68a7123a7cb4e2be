"""Hypotheses that say of each token whether it is of them, yes (1) or no (-1): a regular expression, some strings, a kind of
document. No likelihoods, so only the sign of the score means something."""

import re
from dataclasses import dataclass
from typing import final

import numpy as np

from sae.errors import ConfigError
from sae.proxies.competing import Spelling
from sae.proxies.likelihood import Proxy, Scorer, Scores
from sae.proxies.sampling import Statistics
from sae.storage.tokens import NO_DOCUMENT, Contexts


@final
@dataclass(frozen=True, kw_only=True)
class Pattern(Proxy):
    """Tokens of which at least one byte lies in a match of a regular expression, within one document of one context.

    Bytes that are no whole character of UTF-8 stand as lone surrogates (`surrogateescape`): a pattern does not find them
    unless it asks for those."""

    expression: str
    """As Python's `re` has it."""

    def __post_init__(self) -> None:
        try:
            empty = re.compile(self.expression).match("") is not None
        except re.error as error:
            raise ConfigError(f"pattern {self.expression!r}: {error}") from None
        if empty:
            raise ConfigError(f"pattern {self.expression!r} matches an empty string; let it match at least one character")

    def scorer(self, statistics: Statistics) -> Scorer:
        spelling, pattern = Spelling(statistics.vocabulary), re.compile(self.expression)

        def score(contexts: Contexts) -> Scores:
            text = spelling.read(contexts)
            begins = np.flatnonzero(text.since == 0)
            matched = np.zeros(len(text.values) + 1, np.int64)  # +1 where a match begins, -1 where it has ended
            for begin, end in zip(begins, [*begins[1:], len(text.values)], strict=True):
                run = text.values[begin:end].tobytes().decode("utf-8", errors="surrogateescape")
                matches = [match.span() for match in pattern.finditer(run)]
                if matches:
                    at = np.cumsum([begin, *(len(c.encode("utf-8", errors="surrogateescape")) for c in run)])
                    np.add.at(matched, at[[first for first, _ in matches]], 1)
                    np.add.at(matched, at[[last for _, last in matches]], -1)
            return _yes_or_no(text.sum_by_token(np.cumsum(matched)[:-1].astype(np.float64)) > 0, contexts)

        return score


@final
@dataclass(frozen=True, kw_only=True)
class OfKind(Proxy):
    """Tokens of documents of some kinds."""

    kinds: tuple[str, ...]

    def scorer(self, statistics: Statistics) -> Scorer:
        """Raises `ConfigError` where the tokens have no such kind of document."""
        missing = [kind for kind in self.kinds if kind not in statistics.kinds]
        if missing or not self.kinds:
            raise ConfigError(f"the tokens have no documents of kind {missing}; there are {', '.join(statistics.kinds)}")
        wanted = np.array([kind in self.kinds for kind in statistics.kinds])
        return lambda contexts: _yes_or_no(wanted[contexts.kind[contexts.document != NO_DOCUMENT]], contexts)


def strings(*wanted: str) -> Pattern:
    """The proxy for some strings, as they stand."""
    return Pattern(expression="|".join(re.escape(each) for each in sorted(wanted, key=len, reverse=True)))


def _yes_or_no(of_kept: np.ndarray, contexts: Contexts) -> Scores:
    scores = np.full(contexts.tokens.shape, np.nan)
    scores[contexts.document != NO_DOCUMENT] = np.where(of_kept, 1.0, -1.0)
    return scores
