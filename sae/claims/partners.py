"""The universal claim: the same feature in another dictionary, over the same tokens."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int
from numpy import ndarray
from torch import Tensor

from sae.claims.agreement import Agreement, Tokens, agreement, sums_by_context
from sae.claims.config import ClaimsConfig
from sae.claims.evidence import Evidence
from sae.claims.figures import Figure, Interval
from sae.features.passes import batches, encode, kept_rows
from sae.features.side_by_side import Side
from sae.proxies.agreement import Correlations
from sae.ties import first_best

CHUNK_ROWS = 512
FOUND, SHUFFLED, WITH_SCORE, NEURONS = range(4)
"""Pairs of an `Agreement` here; the last is missing where both dictionaries are of one transformer."""


class Partner(NamedTuple):
    """Of a feature, the feature of another dictionary that correlates most with it, among all of them."""

    unit: int
    agreed: Agreement
    """Correlations over the tokens of the contexts: of the two; of the feature on shuffled contexts with the other dictionary's
    feature that is best there, as many candidates and nothing to find; of the partner with the hypothesis, as it reads its score;
    of the best neuron with its own partner among the other transformer's neurons."""


@torch.no_grad()
def partners(evidence: Evidence, side: Side, other: Side, config: ClaimsConfig) -> list[Partner]:
    """By hypothesis. Two passes of the other dictionary over the contexts: which units are best, and what they do."""
    one, n = side.source is other.source, len(evidence.best)
    own = np.stack([evidence.feature(best.feature) for best in evidence.best], axis=1)
    shuffled = _shuffled(evidence, own)
    neurons = np.stack([evidence.neurons[best.neuron] for best in evidence.best], axis=1)
    with_features = Correlations(other.dictionary.n_features, 2 * n, other.source.device)
    with_neurons = Correlations(other.source.d_mlp, n, other.source.device)
    for at, f, rows in _other(evidence, other, config):
        with_features.add(f, _doubles(np.concatenate([own[at], shuffled[at]], axis=1), f))
        if not one:
            with_neurons.add(rows, _doubles(neurons[at], rows))
    best, at_chance = _best(with_features).reshape(2, n)
    chosen = {FOUND: best, SHUFFLED: at_chance} | ({} if one else {NEURONS: _best(with_neurons)})
    columns = {pair: np.zeros_like(own) for pair in chosen}
    for at, f, rows in _other(evidence, other, config):
        for pair, units in chosen.items():
            values = rows if pair == NEURONS else f
            columns[pair][at] = values[:, torch.from_numpy(units).to(values.device)].cpu().numpy()
    pairs = [(own, columns[FOUND]), (shuffled, columns[SHUFFLED]), (columns[FOUND], evidence.score)]
    if not one:
        pairs.append((neurons, columns[NEURONS]))
    return [Partner(int(best[h]), _agreement(evidence, [(x[:, h], y[:, h]) for x, y in pairs], config)) for h in range(n)]


def _other(evidence: Evidence, other: Side, config: ClaimsConfig) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Of the tokens that count: which, the other dictionary's features, the other transformer's neurons."""
    read = batches(
        other.source,
        evidence.split,
        evidence.n_contexts,
        label=f"claims: {other.id}",
        contexts_per_batch=config.contexts_per_batch,
        skip_bos=True,
    )
    done = 0
    for batch in read:
        for rows in kept_rows(other.source.activations(batch.tokens), batch).split(CHUNK_ROWS):
            yield slice(done, done + len(rows)), encode(other.dictionary, rows), rows
            done += len(rows)


def _doubles(values: ndarray, like: Tensor) -> Float64[Tensor, "token target"]:
    return torch.from_numpy(values).to(like.device, torch.float64)


def _best(correlations: Correlations) -> Int[ndarray, " target"]:
    """Of each row the largest, as `sae.ties` says."""
    return first_best(np.nan_to_num(correlations.pearson(), nan=-1.0), axis=1)


def _shuffled(evidence: Evidence, own: ndarray) -> ndarray:
    """What the features do on other contexts; nothing where there is no other, so that their correlation is undefined."""
    if evidence.n_contexts < 2:
        return np.zeros_like(own)
    grid = np.zeros((evidence.n_contexts * evidence.split.context_length, own.shape[1]), own.dtype)
    grid[evidence.place] = own
    return np.roll(grid, evidence.n_contexts // 2 * evidence.split.context_length, axis=0)[evidence.place]


def _agreement(evidence: Evidence, pairs: list[tuple[ndarray, ndarray]], config: ClaimsConfig) -> Agreement:
    """All by the same resamplings of contexts."""
    context = evidence.place // evidence.split.context_length
    nothing = np.zeros(len(context), bool)
    sums = [sums_by_context(Tokens(context, y.astype(np.float64), nothing), x, evidence.n_contexts) for x, y in pairs]
    return agreement(sums, config.n_bootstrap, config.seed)


def partner_figures(partner: Partner, other: Side) -> tuple[Figure, ...]:
    """The best partner's correlation, beside that of shuffled contexts and that of the best neuron with its own."""
    found, name = partner.agreed, f"{other.id}/{partner.unit}"
    value = found.interval(FOUND, "pearson")

    def beside(text: str, control: str, pair: int) -> Figure:
        return Figure(text, value, control, found.interval(pair, "pearson"), found.above(FOUND, pair, "pearson"))

    figures = [beside(f"correlation with {name}", "largest, contexts shuffled", SHUFFLED)]
    if len(found.found) > NEURONS:
        figures.append(beside("the same", "best neuron with its partner", NEURONS))
    with_score = found.interval(WITH_SCORE, "pearson")
    figures.append(Figure(f"correlation of {name} with the score", with_score, "", Interval(None), None))
    return tuple(figures)
