"""Cases in few dimensions where every number is known, and what a relabelling must not change."""

import itertools
import math

import numpy as np
import pytest
import torch

from sae.errors import ConfigError, NumericsError
from sae.toys.recovery import recovery

E = torch.eye(6)


def at(degrees, i=0, j=1):
    """The unit vector in the plane of axes i and j, `degrees` from i towards j."""
    return math.cos(math.radians(degrees)) * E[i] + math.sin(math.radians(degrees)) * E[j]


def counts(found):
    return {name: getattr(found, name) for name in ("recovered", "n_shared", "n_missed", "n_split", "n_duplicates", "n_invented")}


def expected(recovered=1.0, n_shared=0, n_missed=0, n_split=0, n_duplicates=0, n_invented=0):
    return locals()


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_the_truth_in_another_order_and_length_is_recovered():
    order = torch.tensor([2, 0, 5, 1, 4, 3])
    found = recovery(E, 7.0 * E[order])
    assert counts(found) == expected()
    assert found.mean_cosine == 1.0
    assert (found.n_true, found.n_learned) == (6, 6)
    assert torch.equal(order[found.matched], torch.arange(6))


def test_a_missing_direction_counts_with_cosine_0():
    found = recovery(E[:4], E[[0, 1, 3]])
    assert counts(found) == expected(recovered=0.75, n_missed=1)
    assert found.mean_cosine == 0.75
    assert found.matched.tolist() == [0, 1, -1, 2]
    assert found.cosine.tolist() == [1, 1, 0, 1]


def test_duplicates_are_split_and_counted_beyond_the_first():
    """Truth 0 has three copies (25° is the last above 0.9), truth 1 has two; 30° is at 0.87, neither copy nor invented."""
    learned = torch.stack([at(5, 0, 2), at(20, 0, 2), at(25, 0, 3), E[1], at(10, 1, 3), at(30, 1, 4)])
    found = recovery(E[:2], learned)
    assert counts(found) == expected(n_split=2, n_duplicates=3)
    assert found.matched.tolist() == [0, 3]
    assert found.mean_cosine == pytest.approx((math.cos(math.radians(5)) + 1) / 2)


def test_the_sum_of_two_is_invented():
    found = recovery(E[:2], torch.stack([E[0], E[1], E[0] + E[1], E[4]]))
    assert counts(found) == expected(n_invented=2)


def test_the_opposite_direction_is_another_feature():
    found = recovery(E[:2], torch.stack([E[0], -E[1]]))
    assert counts(found) == expected(recovered=0.5, n_missed=1, n_invented=1)
    assert found.mean_cosine == 0.5
    assert found.matched.tolist() == [0, -1]


def test_one_learned_direction_between_two_alike_is_shared():
    """Two true directions 20° apart and one learned between them: 0.98 with both, but only one can have it."""
    found = recovery(torch.stack([at(0), at(20)]), at(10)[None])
    assert counts(found) == expected(recovered=0.5, n_shared=1)
    assert found.mean_cosine == pytest.approx(math.cos(math.radians(10)) / 2)


def test_the_matching_is_the_best_of_all_not_the_greedy_one():
    """True at 0° and 40°, learned at 25° and 75°. Greedy takes 40-25 (0.97) and is left with 0-75 (0.26): 1.22 in all.
    The best is 0-25 (0.91) and 40-75 (0.82): 1.73."""
    found = recovery(torch.stack([at(0), at(40)]), torch.stack([at(25), at(75)]))
    assert found.matched.tolist() == [0, 1]
    assert found.mean_cosine == pytest.approx((math.cos(math.radians(25)) + math.cos(math.radians(35))) / 2)
    assert counts(found) == expected(recovered=0.5, n_shared=1)


def test_dead_features_are_left_out():
    learned = torch.stack([E[3], E[0], E[0], E[1]])
    found = recovery(E[:2], learned, alive=torch.tensor([False, True, False, True]))
    assert counts(found) == expected()
    assert found.n_learned == 2
    assert found.matched.tolist() == [1, 3]


def test_nothing_learned_or_all_dead_or_zero():
    for learned, alive in ((torch.zeros(0, 6), None), (E, torch.zeros(6, dtype=torch.bool))):
        found = recovery(E[:3], learned, alive=alive)
        assert counts(found) == expected(recovered=0.0, n_missed=3)
        assert found.mean_cosine == 0.0
        assert found.matched.tolist() == [-1] * 3
    assert counts(recovery(E[:3], torch.zeros(2, 6))) == expected(recovered=0.0, n_missed=3, n_invented=2)


def test_agrees_with_a_search_of_all_matchings():
    true, learned = normal(4, 3).double(), normal(6, 3, seed=1).double()
    cosine = np.maximum(np.array([[float(a @ b / a.norm() / b.norm()) for b in learned] for a in true]), 0)
    best = max(sum(cosine[i, j] for i, j in enumerate(chosen)) for chosen in itertools.permutations(range(6), 4))
    found = recovery(true, learned, threshold=0.8, invented_below=0.7)
    assert found.mean_cosine == pytest.approx(best / 4)
    assert found.n_missed == (cosine.max(1) < 0.8).sum()
    assert found.n_invented == (cosine.max(0) < 0.7).sum()


def test_no_number_depends_on_the_order_of_either_side():
    true = torch.nn.functional.normalize(normal(40, 16), dim=1)
    learned = torch.cat([true[:30] + 0.08 * normal(30, 16, 1), true[:15] + 0.1 * normal(15, 16, 2), normal(20, 16, 3)])
    a, b = (torch.randperm(n, generator=torch.Generator().manual_seed(4)) for n in (40, 65))
    one, other = recovery(true, learned), recovery(true[a], learned[b])
    assert counts(one) == counts(other)
    assert one.mean_cosine == pytest.approx(other.mean_cosine)
    assert torch.equal(one.matched[a], b[other.matched])
    assert 0 < one.n_missed < 40
    assert one.n_split > 0


@pytest.mark.parametrize("seed", range(5))
def test_recovered_shared_and_missed_are_all_true_features(seed):
    found = recovery(normal(30, 3, seed), normal(20, 3, seed + 100))
    assert round(found.recovered * 30) + found.n_shared + found.n_missed == 30


def test_random_directions_recover_nothing():
    """The largest of n cosines in d dimensions is about sqrt(2 ln n / d): 0.24 for 1,000 in 256."""
    found = recovery(normal(200, 256), normal(1000, 256, seed=1))
    assert counts(found) == expected(recovered=0.0, n_missed=200, n_invented=1000)
    assert found.mean_cosine < math.sqrt(2 * math.log(1000) / 256)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="true directions of width 6 and learned ones of 5"):
        recovery(E, E[:, :5])
    with pytest.raises(ConfigError, match="no true direction"):
        recovery(E[:0], E)
    with pytest.raises(ConfigError, match="'alive' marks 5 features where 6"):
        recovery(E, E, alive=torch.ones(5, dtype=torch.bool))
    for thresholds in ({"threshold": 1.1}, {"threshold": 0.7}, {"invented_below": 0.0}):
        with pytest.raises(ConfigError, match="in this order"):
            recovery(E, E, **thresholds)
    bad = E.clone()
    bad[2, 1], bad[4, 0] = math.nan, math.inf
    with pytest.raises(NumericsError, match="2 of 6 learned directions hold NaN"):
        recovery(E, bad)
