"""Log-likelihood proxies: how much likelier text is under a hypothesis than under the whole corpus, in nats.

score_j = max over substrings s that end at token j of log P(s | hypothesis) / P(s)    (TM appendix, "Feature proxies")

P(s) is the product of the tokens' unigram probabilities in the train split. Substrings start and end between tokens
and never reach across BOS, the start of a context, or into another document (the paper does not say of the last; text
of another document is no evidence of what this one is). `Alphabet` is here, `Script` in scripts.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from sae.errors import ConfigError
from sae.proxies.sampling import Statistics
from sae.shapes import DocumentArray
from sae.storage.tokens import NO_DOCUMENT, Contexts

FLOOR = 1e-10
"""Probability of one character outside the alphabet, or of the script given text outside it. The paper states it for
base64 and the scripts; DNA and hexadecimal take the same."""

Scores = Float[ndarray, "context position"]
"""Nats, float64; NaN at BOS; -inf where too few tokens lead up to the position."""


Scorer = Callable[[Contexts], Scores]
"""Gives the log-likelihood ratio at every position."""


class Proxy(ABC):
    """How a hypothesis's log-likelihood ratio is made: a description, without data."""

    @abstractmethod
    def scorer(self, statistics: Statistics) -> Scorer:
        """The function that scores text, given what the corpus is like."""


@final
@dataclass(frozen=True, kw_only=True)
class Alphabet(Proxy):
    """Text of characters drawn evenly from `characters`: P(s | hypothesis) = Π over characters of 1/n, or `FLOOR` outside."""

    characters: str
    min_tokens: int = 1
    """The shortest substring looked at. The paper takes DNA at two tokens or more ("e.g. CAT")."""

    def __post_init__(self) -> None:
        if not self.characters or self.min_tokens < 1:
            raise ConfigError(f"an alphabet needs characters and min_tokens of at least 1, not {self}")

    def weights(self, statistics: Statistics) -> Float[ndarray, " vocab"]:
        """log P(token | hypothesis) / P(token) of each token, nats; a substring's ratio is the sum over its tokens.

        A run of bytes that is no whole character counts as one character outside the alphabet.
        """
        characters = [text.decode("utf-8", errors="replace") for text in statistics.vocabulary]
        inside = np.array([sum(c in self.characters for c in text) for text in characters], dtype=np.float64)
        outside = np.array([len(text) for text in characters]) - inside
        return outside * np.log(FLOOR) - inside * np.log(len(set(self.characters))) - statistics.log_unigram

    def scorer(self, statistics: Statistics) -> Scorer:
        weights = self.weights(statistics)

        def score(contexts: Contexts) -> Scores:
            return max_over_substrings(weights[contexts.tokens], contexts.document, self.min_tokens)

        return score


def max_over_substrings(weights: Float[ndarray, "context position"], document: DocumentArray, min_tokens: int = 1) -> Scores:
    """The largest sum of `weights` over the substrings of at least `min_tokens` tokens that end at each position.

    Kadane's recurrence, S_j = w_j + max(0, S_{j-1}), for all contexts at once; each further token that a substring must
    have is forced by S'_j = w_j + S_{j-1}.
    """
    same = continues(document)
    best = weights.astype(np.float64)
    for j in range(1, best.shape[1]):
        best[:, j] += np.where(same[:, j], np.maximum(best[:, j - 1], 0.0), 0.0)
    for _ in range(min_tokens - 1):
        longer = np.full_like(best, -np.inf)
        longer[:, 1:] = np.where(same[:, 1:], weights[:, 1:] + best[:, :-1], -np.inf)
        best = longer
    best[document == NO_DOCUMENT] = np.nan
    return best


def continues(document: DocumentArray) -> Bool[ndarray, "context position"]:
    """Whether each position goes on with the document of the position before it, in the same context."""
    same = np.zeros(document.shape, dtype=bool)
    same[:, 1:] = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] != NO_DOCUMENT)
    return same
