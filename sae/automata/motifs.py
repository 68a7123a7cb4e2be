"""Shapes in a graph of features: self-loops, two-cycles, longer cycles, and the chains in which each feature hands on to the one
that it announces most."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

MOST_CYCLES = 100_000
"""Longer cycles that are looked at; there are more of them than anybody reads."""


class Motif(NamedTuple):
    """Features in order; of a cycle the last is followed by the first."""

    features: tuple[int, ...]
    strength: float
    """That of its weakest edge."""


class Motifs(NamedTuple):
    """Of each kind the strongest, the first ones first; and how many there are."""

    self_loops: list[Motif]
    two_cycles: list[Motif]
    longer_cycles: list[Motif]
    """Of three features."""
    chains: list[Motif]
    """From a feature to the one that it announces most, and so on, until one comes again; those that are part of another are
    left out."""
    counts: dict[str, int]


def motifs(
    first: Int[ndarray, " edge"], second: Int[ndarray, " edge"], strength: Float[ndarray, " edge"], *, n_listed: int, longest: int
) -> Motifs:
    """Of the edges first -> second. Chains have at least 3 and at most `longest` features."""
    weight = {(int(i), int(j)): float(s) for i, j, s in zip(first, second, strength, strict=True)}
    loops = [Motif((i,), s) for (i, j), s in weight.items() if i == j]
    twos = [Motif((i, j), min(s, weight[j, i])) for (i, j), s in weight.items() if i < j and (j, i) in weight]
    threes = _threes(weight)
    chains = _chains(weight, longest)
    found = {"self_loops": loops, "two_cycles": twos, "longer_cycles": threes, "chains": chains}
    listed = {name: sorted(some, key=lambda motif: (-motif.strength, motif.features))[:n_listed] for name, some in found.items()}
    return Motifs(**listed, counts={name: len(some) for name, some in found.items()})


def _followers(weight: dict[tuple[int, int], float]) -> dict[int, list[int]]:
    """Of each feature those that it announces, most first; without itself."""
    found: dict[int, list[int]] = {}
    for i, j in sorted(weight, key=lambda edge: (-weight[edge], edge)):
        if i != j:
            found.setdefault(i, []).append(j)
    return found


def _threes(weight: dict[tuple[int, int], float]) -> list[Motif]:
    """Cycles i -> j -> k -> i, each once, from its lowest feature; those with the strongest first edges first, `MOST_CYCLES` at
    most."""
    following, found = _followers(weight), []
    for i in following:
        for j in following[i]:
            for k in following.get(j, []) if j > i else []:
                if k > i and (k, i) in weight:
                    found.append(Motif((i, j, k), min(weight[i, j], weight[j, k], weight[k, i])))
            if len(found) >= MOST_CYCLES:
                return found
    return found


def _chains(weight: dict[tuple[int, int], float], longest: int) -> list[Motif]:
    following = _followers(weight)
    paths = []
    for start in following:
        path = [start]
        while len(path) < longest and (more := following.get(path[-1])) and more[0] not in path:
            path.append(more[0])
        if len(path) >= 3:
            paths.append(tuple(path))
    inside = {path[k:] for path in paths for k in range(1, len(path))}
    return [Motif(path, min(weight[edge] for edge in pairwise(path))) for path in paths if path not in inside]


def strength_of(
    count: Float[ndarray, " edge"], expected: Float[ndarray, " edge"], n_first: Int[ndarray, " edge"]
) -> Float[ndarray, " edge"]:
    """P(second next | first) · ln(count / expected), nats: what the first's firing tells of the second's, beyond what the
    context is about. Only the order of lists depends on it."""
    return count / np.maximum(n_first, 1) * np.log(np.maximum(count, 1) / np.maximum(expected, 1e-9))
