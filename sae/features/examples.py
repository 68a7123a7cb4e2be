"""Examples of a feature: the tokens where it fires most, and some from every interval of its activation, with their text.

Peers' top lists are near-copies from one document, and their interval groups draw mostly inactive tokens; here every
group holds one token a document, and only active ones.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from sae.features.firings import Firings, interval_of
from sae.shapes import DocumentArray, TokenArray

EMPTY = -1
CHUNK_FEATURES = 256


class Choice(NamedTuple):
    """How many examples, and of which size."""

    n_top: int
    n_intervals: int
    per_interval: int
    window: int
    """Tokens on either side."""
    seed: int

    @property
    def n_slots(self) -> int:
        return self.n_top + self.n_intervals * self.per_interval


class Slots(NamedTuple):
    """Which tokens are the examples."""

    firing: Int[ndarray, "feature example"]
    """Index into the Firings; -1 is an empty slot."""
    interval: Int[ndarray, "feature example"]
    """0: top; 1 ... n: interval, the highest first; -1: empty slot. int8."""


def example_columns(
    firings: Firings,
    maximum: Float[ndarray, " feature"],
    tokens: TokenArray,
    document: DocumentArray,
    choice: Choice,
    *,
    first: int = 0,
) -> dict[str, ndarray]:
    """The table's example columns. `tokens` and `document` are those of the pass, from its first context on; `first` is the
    number of the first feature in its dictionary, by which chance draws."""
    slots = choose(firings, maximum, document.ravel(), choice, first)
    filled = slots.firing >= 0
    at = np.where(filled, slots.firing, 0)
    token = firings.token[at].astype(np.int64) if len(firings.token) else np.zeros_like(at)
    peak = firings.value[at] if len(firings.value) else np.zeros(at.shape, np.float32)
    length = tokens.shape[1]
    ids, activations = _windows(firings, np.where(filled, token, EMPTY), tokens, choice.window)
    return {
        "example_tokens": ids,
        "example_activations": activations,
        "example_context": np.where(filled, token // length, EMPTY).astype(np.int32),
        "example_position": np.where(filled, token % length, EMPTY).astype(np.int32),
        "example_document": np.where(filled, document.ravel()[token], EMPTY).astype(np.int32),
        "example_interval": slots.interval,
        "example_peak": np.where(filled, peak, 0).astype(np.float32),
    }


def choose(
    firings: Firings, maximum: Float[ndarray, " feature"], document: Int[ndarray, " token"], choice: Choice, first: int = 0
) -> Slots:
    """Slots of every feature. A token may be both a top example and one of the highest interval's."""
    shape = (firings.n_features, choice.n_slots)
    slots = Slots(np.full(shape, EMPTY, np.int64), np.full(shape, EMPTY, np.int8))
    for feature in np.flatnonzero(firings.n_active):
        start, stop = firings.start[feature], firings.start[feature + 1]
        value, token = firings.value[start:stop], firings.token[start:stop]
        owner = document[token]
        top = best_of_documents(value, owner, choice.n_top)
        slots.firing[feature, : len(top)] = start + top
        slots.interval[feature, : len(top)] = 0
        group = choice.n_intervals - 1 - interval_of(value, maximum[feature], choice.n_intervals)
        chance = scramble(token, first + int(feature), choice.seed)
        chosen, slot = _from_intervals(value, owner, group, chance, choice.per_interval)
        slots.firing[feature, choice.n_top + slot] = start + chosen
        slots.interval[feature, choice.n_top + slot] = 1 + slot // choice.per_interval
    return slots


def best_of_documents(value: ndarray, owner: ndarray, n: int) -> Int[ndarray, " chosen"]:
    """The `n` largest values, the best of each document, ties to the earlier token."""
    order = np.argsort(-value, kind="stable")
    _, best = np.unique(owner[order], return_index=True)
    return order[np.sort(best)[:n]]


def _from_intervals(
    value: ndarray, owner: ndarray, group: ndarray, chance: ndarray, n: int
) -> tuple[Int[ndarray, " chosen"], Int[ndarray, " chosen"]]:
    """From each group `n` tokens by chance, passing over documents already drawn; and their slots (group · n + rank by value)."""
    order = np.lexsort((chance, group))
    key = group[order] * (int(owner.max()) + 2) + owner[order] + 1
    _, first = np.unique(key, return_index=True)
    order = order[np.sort(first)]
    order = order[_rank(group[order]) < n]
    order = order[np.lexsort((-value[order], group[order]))]
    return order, group[order] * n + _rank(group[order])


def _rank(group: ndarray) -> ndarray:
    """Place of each entry within its group; `group` is sorted."""
    return np.arange(len(group)) - np.searchsorted(group, group)


def scramble(token: Int[ndarray, " firing"], feature: int, seed: int) -> Int[ndarray, " firing"]:
    """A number drawn by chance for each token, the same whichever other tokens are asked for (SplitMix64's finaliser)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + feature * 0xD1B54A32D192ED03 + 1) % 2**64
    z = token.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(mixed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def _windows(
    firings: Firings, token: Int[ndarray, "feature example"], tokens: TokenArray, window: int
) -> tuple[Int[ndarray, "feature example window"], Float[ndarray, "feature example window"]]:
    """Ids (int32, -1 beyond the context or in an empty slot) and the feature's activations (float16) around each token."""
    length, flat = tokens.shape[1], tokens.ravel()
    offsets = np.arange(-window, window + 1)
    shape = (*token.shape, len(offsets))
    ids, activations = np.full(shape, EMPTY, np.int32), np.zeros(shape, np.float16)
    for first in range(0, len(token), CHUNK_FEATURES):
        here = token[first : first + CHUNK_FEATURES, :, None]
        at = here + offsets
        inside = (here >= 0) & (at // length == here // length)
        at = np.where(inside, at, 0)
        ids[first : first + CHUNK_FEATURES] = np.where(inside, flat[at].astype(np.int32), EMPTY)
        found = np.where(inside, _look_up(firings, first, at, flat.size), 0)
        activations[first : first + CHUNK_FEATURES] = np.minimum(found, np.finfo(np.float16).max)
    return ids, activations


def _look_up(
    firings: Firings, first: int, at: Int[ndarray, "chunk example window"], n_tokens: int
) -> Float[ndarray, "chunk example window"]:
    """Activation of feature `first + i` at the tokens `at[i]`; 0 where it does not fire."""
    start, stop = firings.start[first], firings.start[first + len(at)]
    if start == stop:
        return np.zeros(at.shape, np.float32)
    keys = (firings.feature[start:stop].astype(np.int64) - first) * n_tokens + firings.token[start:stop]
    wanted = np.arange(len(at))[:, None, None] * n_tokens + at
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, firings.value[start:stop][place], np.float32(0))
