"""The universal claim: the same feature in another dictionary, over the same tokens."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray

from sae.claims.config import ClaimsConfig
from sae.claims.evidence import Evidence
from sae.claims.figures import Figure, Interval
from sae.features.passes import batches, encode, kept_rows
from sae.features.side_by_side import Side
from sae.proxies.agreement import Correlations

CHUNK_ROWS = 512


class Partner(NamedTuple):
    """Of one unit, the unit of another population that correlates most with it. Exact, over all tokens."""

    unit: int
    correlation: float
    shuffled: float
    """The largest where contexts are shuffled: as many candidates, and nothing to find. NaN for a single context."""
    with_score: float
    """Of the partner with the hypothesis, as it reads its score; NaN where undefined."""


class Partners(NamedTuple):
    """By hypothesis."""

    features: list[Partner]
    """Of the best feature, among the other dictionary's features."""
    neurons: list[Partner] | None
    """Of the best neuron, among the other transformer's neurons; None where it is the same transformer."""


@torch.no_grad()
def partners(evidence: Evidence, side: Side, other: Side, config: ClaimsConfig) -> Partners:
    """One pass of the other dictionary over the contexts."""
    one = side.source is other.source
    n, device = len(evidence.best), other.source.device
    units = {"features": other.dictionary.n_features} | ({} if one else {"neurons": other.source.d_mlp})
    own = {
        "features": np.stack([evidence.feature(best.feature) for best in evidence.best], axis=1),
        "neurons": np.stack([evidence.neurons[best.neuron] for best in evidence.best], axis=1),
    }
    targets = {name: _targets(evidence, own[name]) for name in units}
    sums = {name: Correlations(n_units, 3 * n, device) for name, n_units in units.items()}
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
            for name, correlations in sums.items():
                y = torch.from_numpy(targets[name][done : done + len(rows)]).to(device)
                correlations.add(encode(other.dictionary, rows) if name == "features" else rows, y)
            done += len(rows)
    found = {name: _partners(correlations.pearson(), n) for name, correlations in sums.items()}
    return Partners(found["features"], found.get("neurons"))


def _targets(evidence: Evidence, own: ndarray) -> Float64[ndarray, "token target"]:
    """A unit for each hypothesis, the same of other contexts, and the scores."""
    grid = np.zeros((evidence.n_contexts * evidence.split.context_length, own.shape[1]))
    grid[evidence.place] = own
    rolled = np.roll(grid, evidence.n_contexts // 2 * evidence.split.context_length, axis=0)[evidence.place]
    if evidence.n_contexts < 2:
        rolled[:] = 0  # there is no other context; of what never varies the correlation is undefined
    return np.concatenate([own, rolled, evidence.score], axis=1)


def _partners(correlation: Float64[ndarray, "target unit"], n: int) -> list[Partner]:
    found, shuffled, with_score = correlation[:n], correlation[n : 2 * n], correlation[2 * n :]
    best = np.nan_to_num(found, nan=-1.0).argmax(1)
    return [
        Partner(int(unit), float(found[h, unit]), _largest(shuffled[h]), float(with_score[h, unit]))
        for h, unit in enumerate(best)
    ]


def _largest(values: Float64[ndarray, " unit"]) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmax(values))


def partner_figures(found: Partners, h: int, other: Side) -> tuple[Figure, ...]:
    """The best partner's correlation, beside that of shuffled contexts and that of the best neuron with its own."""
    mine = found.features[h]
    value = _known(mine.correlation)
    figures = [
        Figure(
            f"correlation with {other.id}/{mine.unit}", value, "largest, contexts shuffled", _known(mine.shuffled), _above(mine)
        ),
    ]
    if found.neurons is not None:
        neuron = found.neurons[h]
        above = None if np.isnan([mine.correlation, neuron.correlation]).any() else mine.correlation > neuron.correlation
        figures.append(Figure("the same", value, "best neuron with its partner", _known(neuron.correlation), above))
    figures.append(
        Figure(f"correlation of {other.id}/{mine.unit} with the score", _known(mine.with_score), "", Interval(None), None)
    )
    return tuple(figures)


def _above(partner: Partner) -> bool | None:
    return None if np.isnan([partner.correlation, partner.shuffled]).any() else partner.correlation > partner.shuffled


def _known(value: float) -> Interval:
    return Interval(None if np.isnan(value) else value)
