"""What one unit does on the scoring documents: on all tokens, in all windows, and on a sample of each level of activation."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from numpy import ndarray

from sae.features.firings import interval_of
from sae.interpret.evidence import Evidence
from sae.interpret.ranks import midranks
from sae.storage.tokens import NO_DOCUMENT, Contexts


class Sample(NamedTuple):
    """Tokens from each level of activation and from the silent ones, and how many tokens each stands for."""

    place: Int64[ndarray, " sampled"]
    digit: Int64[ndarray, " sampled"]
    """The activation as `digits` has it."""
    weight: Float64[ndarray, " sampled"]
    """Tokens of its level / those drawn of it."""


class Truth(NamedTuple):
    """A place is an index into the scoring tokens."""

    n: int
    """Scoring tokens."""
    place: Int64[ndarray, " active"]
    """Where the unit fires."""
    rank: Float64[ndarray, " active"]
    """Of its activations there among all tokens, less the mean rank."""
    spread: float
    """Sum over all tokens of the squares of such ranks."""
    fires: Bool[ndarray, " window"]
    sample: Sample


def digits(value: Float[ndarray, " n"], maximum: float) -> Int64[ndarray, " n"]:
    """Activations as whole numbers from 0 to 9, the paper's quantisation: tenths of the maximum, rounded down."""
    if maximum <= 0:
        return np.zeros(len(value), np.int64)
    return np.clip((10 * value.astype(np.float64) / maximum).astype(np.int64), 0, 9)


def truth_of(
    n: int, place: Int64[ndarray, " active"], value: Float[ndarray, " active"], fires: Bool[ndarray, " window"], sample: Sample
) -> Truth:
    """Ranks over all `n` tokens, of which those not in `place` tie at 0."""
    n_silent = n - len(place)
    rank = n_silent + midranks(value) - n / 2
    spread = float((rank**2).sum() + n_silent * (n_silent / 2 - n / 2) ** 2)
    return Truth(n, place, rank, spread, fires, sample)


def moved(truth: Truth, tokens: Int64[ndarray, " place"], windows: Int64[ndarray, " window"]) -> Truth:
    """The same activations at other places, `tokens` and `windows` being permutations: what chance would give."""
    sample = truth.sample._replace(place=tokens[truth.sample.place])
    return truth._replace(place=tokens[truth.place], fires=truth.fires[windows], sample=sample)


def draw(
    place: Int64[ndarray, " active"],
    value: Float[ndarray, " active"],
    shuffled: Int64[ndarray, " place"],
    *,
    n_intervals: int,
    per_interval: int,
    n_silent: int,
    rng: np.random.Generator,
) -> Sample:
    """Of each interval of (0, max] at most `per_interval` tokens, and `n_silent` on which the unit is silent: the first such
    ones of `shuffled`, all places in an order by chance."""
    maximum = float(value.max(initial=0))
    order = rng.permutation(len(value))
    level = interval_of(value, np.float32(maximum or 1), n_intervals)
    order = order[np.argsort(level[order], kind="stable")]
    size = np.bincount(level, minlength=n_intervals)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    order = order[rank < per_interval]
    weight = (size / np.maximum(np.minimum(size, per_interval), 1))[level[order]]
    active = np.zeros(len(shuffled), bool)
    active[place] = True
    silent = shuffled[: 4 * n_silent]
    silent = silent[~active[silent]][:n_silent]
    if len(silent) < n_silent:  # a dense unit
        silent = shuffled[~active[shuffled]][:n_silent]
    each = (len(shuffled) - len(place)) / max(len(silent), 1)
    return Sample(
        np.concatenate((place[order], silent)),
        np.concatenate((digits(value[order], maximum), np.zeros(len(silent), np.int64))),
        np.concatenate((weight, np.full(len(silent), each))),
    )


class Windows(NamedTuple):
    """Runs of consecutive positions that lie within one document of one side. They do not overlap."""

    token: Int64[ndarray, "window length"]
    """Indices into the reading; a window at a context's start has BOS in it."""
    of_token: Int64[ndarray, " token"]
    """The window of each token of the reading, -1 for one that is in none."""


def windows(contexts: Contexts, mine: Bool[ndarray, " token"], length: int) -> Windows:
    """All windows of `length` tokens whose tokens are `mine`. Ends of contexts too short for one are left out."""
    n_contexts, n_positions = contexts.tokens.shape
    token = np.arange(n_contexts * n_positions).reshape(n_contexts, n_positions)
    token = token[:, : n_positions // length * length].reshape(-1, length)
    document = contexts.document.ravel()[token]
    one = ((document == document.max(1, keepdims=True)) | (document == NO_DOCUMENT)).all(1)
    token = token[one & mine[token].any(1)]
    of_token = np.full(contexts.tokens.size, -1, np.int64)
    of_token[token] = np.arange(len(token))[:, None]
    return Windows(token, of_token)


def fired_windows(windows: Windows, token: Int64[ndarray, " active"]) -> Bool[ndarray, " window"]:
    """Windows in which a unit fires at least once; `token` are its firings' indices into the reading."""
    fires = np.zeros(len(windows.token), bool)
    within = windows.of_token[token]
    fires[within[within >= 0]] = True
    return fires


def firings_of(evidence: Evidence, population: str, unit: int) -> tuple[Int64[ndarray, " active"], Float[ndarray, " active"]]:
    """Token indices and values of all firings of a unit."""
    token, value = evidence.firings[population].of(unit)
    return token.astype(np.int64), value
