"""Short texts for a judge: some of the fitting documents to explain a unit from, others of the scoring documents to try it on."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from sae.chance import generator
from sae.features.examples import best_of_documents
from sae.interpret.evidence import Evidence
from sae.interpret.truth import digits, draw, firings_of

N_TOP, N_INTERVALS = 10, 11
REACH = 4
"""Tokens on either side of a passage's own: 9 in all, as the paper's; fewer where the document or the context ends."""


class Passage(NamedTuple):
    token: Int64[ndarray, " length"]
    """Ids."""
    digit: Int64[ndarray, " length"]
    """The unit's activations as whole numbers from 0 to 9."""
    fires: bool
    """On any of them, however little."""
    weight: float
    """Tokens that its own stands for."""
    document: int


def to_explain(evidence: Evidence, population: str, unit: int, seed: int) -> list[Passage]:
    """Of the fitting documents: the 10 best (one a document), 2 of each of 11 intervals of activation, 5 on which the unit is
    silent."""
    place, value = _side(evidence, population, unit, evidence.fitting)
    document = evidence.contexts.document.ravel()
    top = best_of_documents(value, document[place], N_TOP)
    rest, weight = _drawn(evidence.fitting, place, value, 2, 5, generator(seed, f"explaining {population}", unit))
    weights = np.concatenate((np.ones(len(top)), weight))
    return _passages(evidence, place, value, np.concatenate((place[top], rest)), weights)


def to_score(evidence: Evidence, population: str, unit: int, seed: int, shown: list[Passage]) -> list[Passage]:
    """Of the scoring documents: 3 of each interval, 15 on which the unit is silent at the middle; without texts that `shown`
    has too (copies under another document's number)."""
    place, value = _side(evidence, population, unit, evidence.scoring)
    chosen, weight = _drawn(evidence.scoring, place, value, 3, 15, generator(seed, f"scoring {population}", unit))
    known = {passage.token.tobytes() for passage in shown}
    passages = _passages(evidence, place, value, chosen, weight)
    return [passage for passage in passages if passage.token.tobytes() not in known]


def _side(
    evidence: Evidence, population: str, unit: int, mine: Bool[ndarray, " token"]
) -> tuple[Int64[ndarray, " active"], Float[ndarray, " active"]]:
    token, value = firings_of(evidence, population, unit)
    return token[mine[token]], value[mine[token]]


def _drawn(
    mine: Bool[ndarray, " token"],
    token: Int64[ndarray, " active"],
    value: Float[ndarray, " active"],
    per_interval: int,
    n_silent: int,
    rng: np.random.Generator,
) -> tuple[Int64[ndarray, " chosen"], Float[ndarray, " chosen"]]:
    """Tokens of a stratified sample and their weights."""
    all_mine = np.flatnonzero(mine)
    place = np.searchsorted(all_mine, token)
    shuffled = rng.permutation(len(all_mine))
    sizes = {"n_intervals": N_INTERVALS, "per_interval": per_interval, "n_silent": n_silent}
    sample = draw(place, value, shuffled, **sizes, rng=rng)
    return all_mine[sample.place], sample.weight


def _passages(
    evidence: Evidence,
    active: Int64[ndarray, " active"],
    value: Float[ndarray, " active"],
    chosen: Int64[ndarray, " chosen"],
    weight: Float[ndarray, " chosen"],
) -> list[Passage]:
    """Around each of the `chosen` tokens what is of its document and context."""
    ids, document = evidence.contexts.tokens.ravel(), evidence.contexts.document.ravel()
    length, maximum = evidence.contexts.tokens.shape[1], float(value.max(initial=0))
    found = []
    for token, each in zip(chosen, weight, strict=True):
        at = np.arange(max(token // length * length, token - REACH), min((token // length + 1) * length, token + REACH + 1))
        at = at[document[at] == document[token]]
        place = np.minimum(np.searchsorted(active, at), max(len(active) - 1, 0))
        here = np.where(active[place] == at, value[place], 0) if len(active) else np.zeros(len(at), np.float32)
        passage = Passage(
            ids[at].astype(np.int64), digits(here, maximum), bool((here > 0).any()), float(each), int(document[token])
        )
        found.append(passage)
    return found
