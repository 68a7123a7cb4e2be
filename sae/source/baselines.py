"""What a transformer must beat: a unigram and a bigram model of tokens, fitted on train contexts.

Both are fitted and measured on the tokens that a transformer predicts, of which the prediction counts: positions 1 and later of
each context, each given the one before it in the same context. numpy only.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from numpy import ndarray

from sae.errors import CorpusError
from sae.storage.tokens import Sequences

Ids = Integer[ndarray, "pair"]
LogProbs = Float[ndarray, "pair"]


class Unigram(NamedTuple):
    """p(w) = (c(w) + 1/2) / (n + V/2): add a half, so that no token is impossible."""

    log_probs: Float[ndarray, " vocab"]

    def log_prob(self, tokens: Ids) -> LogProbs:
        """Nats."""
        return self.log_probs[tokens]


class Bigram(NamedTuple):
    """Interpolated Kneser-Ney (Chen and Goodman's modified form, three discounts).

    p(w|v) = (c(v,w) - D_c(v,w)) / c(v) + γ(v) q(w). D_1, D_2, D_3+ are the discounts for pairs seen once, twice and more; γ(v)
    is what they freed. q(w), the continuation probability, counts in how many different contexts v the token w was seen, with a
    half added as in the unigram.
    """

    pairs: Integer[ndarray, " distinct"]
    """v · V + w of each distinct pair, sorted."""
    seen: Float[ndarray, " distinct"]
    """(c(v,w) - D) / c(v) of each."""
    freed: Float[ndarray, " vocab"]
    """γ(v); 1 for a v that was never followed by anything."""
    continuation: Float[ndarray, " vocab"]
    """q(w)."""

    def log_prob(self, previous: Ids, tokens: Ids) -> LogProbs:
        """Nats."""
        key = previous.astype(np.int64) * len(self.continuation) + tokens
        place = np.minimum(np.searchsorted(self.pairs, key), len(self.pairs) - 1)
        direct = np.where(self.pairs[place] == key, self.seen[place], 0.0)
        return np.log(direct + self.freed[previous] * self.continuation[tokens])


class BaselineLosses(NamedTuple):
    """Mean over held-out predicted tokens, nats a token."""

    unigram: float
    bigram: float


class Neighbours(NamedTuple):
    """Every prediction of some contexts that counts: a token and the one before it."""

    previous: Ids
    token: Ids

    @classmethod
    def of(cls, contexts: Sequences) -> "Neighbours":
        counted = contexts.predicted
        return cls(contexts.tokens[:, :-1][counted], contexts.tokens[:, 1:][counted])


def fit_unigram(predicted: Ids, n_vocab: int) -> Unigram:
    """From predicted tokens."""
    counts = np.bincount(predicted, minlength=n_vocab) + 0.5
    return Unigram(np.log(counts / counts.sum()))


def fit_bigram(neighbours: Neighbours, n_vocab: int) -> Bigram:
    """Raises `CorpusError` where there are none."""
    if not len(neighbours.token):
        raise CorpusError("no two neighbouring tokens of which the second counts; there is nothing to fit a bigram on")
    keys = neighbours.previous.astype(np.int64) * n_vocab + neighbours.token
    pairs, counts = np.unique(keys, return_counts=True)
    first, second = pairs // n_vocab, pairs % n_vocab
    discount = discounts(counts)[np.minimum(counts, 3)]
    total = np.bincount(first, weights=counts, minlength=n_vocab)
    freed = np.ones(n_vocab)
    followed = total > 0
    freed[followed] = np.bincount(first, weights=discount, minlength=n_vocab)[followed] / total[followed]
    kinds = np.bincount(second, minlength=n_vocab) + 0.5
    return Bigram(pairs, (counts - discount) / total[first], freed, kinds / kinds.sum())


def discounts(counts: Integer[ndarray, " distinct"]) -> Float[ndarray, "4"]:
    """Chen and Goodman's D_0 = 0, D_1, D_2, D_3+ from how many pairs were seen once, twice, thrice and four times.

    Where one of these is 0 (tiny or artificial corpora), 0.5, 1 and 1.5 stand in.
    """
    n1, n2, n3, n4 = (float(np.count_nonzero(counts == n)) for n in (1, 2, 3, 4))
    if 0 in (n1, n2, n3, n4):
        return np.array([0.0, 0.5, 1.0, 1.5])
    y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.clip(found, [0.0, 0.01, 0.01, 0.01], [0.0, 0.99, 1.99, 2.99])


def measure_baselines(train: Sequences, heldout: Sequences, n_vocab: int) -> BaselineLosses:
    """Fit both on `train`, measure both on every prediction of `heldout` that counts."""
    fitted, tried = Neighbours.of(train), Neighbours.of(heldout)
    unigram, bigram = fit_unigram(fitted.token, n_vocab), fit_bigram(fitted, n_vocab)
    return BaselineLosses(-float(unigram.log_prob(tried.token).mean()), -float(bigram.log_prob(*tried).mean()))
