"""What was found of automata, as a dict for json: how many edges, beside both nulls; the motifs by name; the automaton of
capitals."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from sae.automata.edges import Automata, AutomataConfig
from sae.automata.motifs import Motif, Motifs, motifs, strength_of
from sae.automata.snake_case import snake_case
from sae.chance import generator
from sae.shown import printable

N_REWIRED = 10
"""Graphs with the same number of edges into and out of every feature, over which the motifs' control is averaged."""
N_TOKENS = 3
"""That name a feature."""
Means = Float[ndarray, "feature vocab"]


def top_tokens(
    features: Sequence[int] | ndarray, means: Means, count: Int[ndarray, " vocab"], vocabulary: Sequence[bytes]
) -> list[list[str]]:
    """For each of some features the tokens with the most of its activation, summed over the text; fewer where it fires on
    fewer."""
    found = []
    for feature in features:
        total = means[feature] * count
        best = np.argsort(-total, kind="stable")[:N_TOKENS]
        found.append([printable(vocabulary[k]) for k in best if total[k] > 0])
    return found


def edge_strength(found: Automata) -> Float[ndarray, " edge"]:
    """Of each of its edges, what lists are ordered by."""
    return strength_of(found.edges.n, found.edges.expected, found.n_active[found.edges.first])


def motifs_of(found: Automata, config: AutomataConfig) -> Motifs:
    edges = found.edges
    return motifs(edges.first, edges.second, edge_strength(found), n_listed=config.n_listed, longest=config.longest)


def rewired_counts(found: Automata, config: AutomataConfig) -> dict[str, float]:
    """Mean numbers of motifs where the ends of the edges were dealt anew, so that every feature keeps as many in and out."""
    edges, strength = found.edges, edge_strength(found)
    totals: dict[str, float] = {}
    for k in range(N_REWIRED):
        second = generator(config.seed, "rewired", k).permutation(edges.second)
        for name, n in motifs(edges.first, second, strength, n_listed=1, longest=config.longest).counts.items():
            totals[name] = totals.get(name, 0.0) + n / N_REWIRED
    return totals


def report(found: Automata, listed: Motifs, vocabulary: Sequence[bytes], config: AutomataConfig) -> dict[str, Any]:
    """`listed` is `motifs_of(found, config)`."""

    def told(some: list[Motif]) -> list[dict[str, Any]]:
        return [
            {
                "features": list(motif.features),
                "tokens": top_tokens(motif.features, found.means, found.token_count, vocabulary),
                "strength": motif.strength,
            }
            for motif in some
        ]

    names = ("self_loops", "two_cycles", "longer_cycles", "chains")
    edges = found.edges
    return {
        "id": found.id,
        "n_tokens": found.n_tokens,
        "n_steps": found.n_steps,
        "n_features": len(found.n_active),
        "effects": "sampled" if found.sampled else "exact",
        "least_observed": _finite(found.least[0]),
        "least_causal": _finite(found.least[1]),
        "n_edges": len(edges.first),
        "n_edges_shuffled_order": int(found.mask(shuffled_order=True).sum()),
        "n_edges_shuffled_tokens": int(found.mask(shuffled_tokens=True).sum()),
        "n_edges_both_shuffled": int(found.mask(shuffled_order=True, shuffled_tokens=True).sum()),
        "n_features_in_edges": len(np.union1d(edges.first, edges.second)),
        "n_motifs": listed.counts,
        "n_motifs_rewired": rewired_counts(found, config),
        "motifs": {name: told(getattr(listed, name)) for name in names},
        "snake_case": asdict(snake_case(found, vocabulary)),
    }


def _finite(value: float) -> float | None:
    """None for infinity, which json has not."""
    return value if np.isfinite(value) else None
