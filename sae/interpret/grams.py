"""N-grams of a text: the last tokens up to each token, as far back as they were seen often enough to say something."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64, Integer
from numpy import ndarray

from sae.storage.tokens import NO_DOCUMENT, Contexts

ANYTHING = 0
"""The gram of length 0, which every token ends in."""
NONE = -1


class Grams(NamedTuple):
    """Grams of lengths 0 to n that occur at least `min_count` times among the fitting tokens.

    Token indices run over [context, position] of the reading, flattened. A gram lies within one document of one context.
    """

    member: Int64[ndarray, "length token"]
    """The gram of each length, from 0 on, that ends at each token; -1 where it is too rare, or would leave the document."""
    leaf: Int64[ndarray, " token"]
    """The longest of them."""
    size: Int64[ndarray, " gram"]
    """Fitting tokens that end in each gram."""


def find_grams(contexts: Contexts, fitting: Bool[ndarray, " token"], n: int, min_count: int) -> Grams:
    """Grams of up to `n` tokens, counted over the tokens that are `fitting`.

    A gram is its own beginning (a gram that ends one token before) and a token; where the beginning is too rare, so is it.
    """
    ids, document = contexts.tokens.ravel().astype(np.int64), contexts.document.ravel()
    together = np.zeros(contexts.document.shape, bool)
    together[:, 1:] = contexts.document[:, 1:] == contexts.document[:, :-1]
    goes_back = together.ravel()
    n_vocab = int(ids.max(initial=0)) + 1
    member = np.where(document == NO_DOCUMENT, NONE, ANYTHING)[None].astype(np.int64)
    counts = [np.array([int(fitting.sum())])]
    for length in range(1, n + 1):
        before = member[-1] if length == 1 else np.where(goes_back, np.concatenate(([NONE], member[-1][:-1])), NONE)
        key = np.where(before == NONE, NONE, before * n_vocab + ids)
        found, count = _frequent(key, fitting, min_count, sum(map(len, counts)))
        member = np.concatenate((member, found[None]))
        counts.append(count)
    leaf = member[0]
    for longer in member[1:]:
        leaf = np.where(longer == NONE, leaf, longer)
    return Grams(member, leaf, np.concatenate(counts))


def _frequent(
    key: Int64[ndarray, " token"], fitting: Bool[ndarray, " token"], min_count: int, first_id: int
) -> tuple[Int64[ndarray, " token"], Integer[ndarray, " new"]]:
    """Ids from `first_id` on of the keys that are frequent (-1 for the others), and their counts."""
    keys, count = np.unique(key[fitting & (key != NONE)], return_counts=True)
    keys, count = keys[count >= min_count], count[count >= min_count]
    if not len(keys):
        return np.full(len(key), NONE, np.int64), count
    place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
    return np.where(keys[place] == key, first_id + place, NONE), count


def sums(grams: Grams, token: Int[ndarray, " firing"], value: ndarray | None = None) -> ndarray:
    """Sum over firings (fitting tokens and their values; 1 each where None) by the grams that they end in, [gram] float64."""
    ids = grams.member[:, token].ravel()
    weights = None if value is None else np.tile(value.astype(np.float64), len(grams.member))
    return np.bincount(ids + 1, weights=None if weights is None else weights, minlength=len(grams.size) + 1)[1:].astype(
        np.float64
    )
