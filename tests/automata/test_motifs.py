"""Motifs of small graphs beside all permutations of their features."""

from itertools import permutations

import numpy as np

from sae.automata.motifs import motifs


def test_loops_and_cycles_are_those_that_permutations_find():
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((9, 9)) < 0.5, rng.random((9, 9)), 0)
    first, second = np.nonzero(weight)
    found = motifs(first, second, weight[first, second], n_listed=10**6, longest=5)
    for size, name in ((1, "self_loops"), (2, "two_cycles"), (3, "longer_cycles")):
        expected = {}
        for path in permutations(range(9), size):
            edges = [weight[i, path[(k + 1) % size]] for k, i in enumerate(path)]
            if min(edges) > 0 and path[0] == min(path):
                expected[path] = min(edges)
        got = getattr(found, name)
        assert {motif.features: motif.strength for motif in got} == expected
        assert [motif.strength for motif in got] == sorted(expected.values(), reverse=True)
        assert found.counts[name] == len(expected) > 0


def test_chains_follow_the_strongest_edge_and_none_is_part_of_another():
    edges = {(0, 1): 0.9, (1, 2): 0.5, (1, 3): 0.4, (2, 4): 0.7, (4, 0): 0.1, (5, 1): 0.2, (6, 7): 1.0}
    first, second = (np.array(part) for part in zip(*edges, strict=True))
    found = motifs(first, second, np.array(list(edges.values())), n_listed=9, longest=4)
    assert {motif.features: motif.strength for motif in found.chains} == {
        (0, 1, 2, 4): 0.5,
        (1, 2, 4, 0): 0.1,
        (2, 4, 0, 1): 0.1,
        (4, 0, 1, 2): 0.1,
        (5, 1, 2, 4): 0.2,
    }
    assert motifs(first, second, np.array(list(edges.values())), n_listed=2, longest=4).chains == found.chains[:2]
