"""The search for equal L0 on trainings whose L0 is a known function of λ."""

import math

import pytest

from benchmarks.equal_l0 import MOST_FACTOR, find
from sae.errors import ConfigError


def search(l0_of, **options):
    """The settings asked for, in order, and the tries as `find` gives them."""
    asked = []

    def attempt(setting):
        asked.append(setting)
        return l0_of(setting), f"trained at {setting}"

    return asked, find(attempt, **options)


def test_a_power_law_is_solved_by_the_third_training():
    """L0 = 40 λ^-1.7: the first step is off by the guessed elasticity, the secant through two points is exact."""
    asked, tries = search(lambda setting: 40 * setting**-1.7, target=10, start=1.5, tolerance=1e-9)
    assert len(asked) == 3
    assert asked[2] == pytest.approx(4 ** (1 / 1.7))
    assert tries[-1].l0 == pytest.approx(10)
    assert tries[-1].made == f"trained at {asked[2]}"


def test_a_curve_that_is_no_power_law_is_met_within_the_tolerance():
    _, tries = search(lambda setting: 100 * math.exp(-setting / 3) + 1, target=15, start=1.0, tolerance=0.01, most=8)
    assert tries[-1].l0 == pytest.approx(15, rel=0.01)


def test_a_training_that_steers_for_l0_itself_is_corrected_upwards():
    asked, tries = search(lambda target: 0.8 * target, target=20, start=20.0, elasticity=1.0, tolerance=1e-6)
    assert asked == pytest.approx([20, 25])
    assert tries[-1].l0 == pytest.approx(20)


def test_within_the_tolerance_nothing_more_is_trained():
    asked, _ = search(lambda setting: 20.9, target=20, start=3.0)
    assert asked == [3.0]
    asked, _ = search(lambda setting: 21.1, target=20, start=3.0, most=2)
    assert len(asked) == 2


def test_the_nearest_try_is_last_where_all_miss():
    _, tries = search(lambda setting: {3.0: 9.0}.get(setting, 30.0), target=10, start=3.0, most=3)
    assert (tries[-1].setting, tries[-1].l0) == (3.0, 9.0)
    assert len(tries) == 3


def test_an_elasticity_of_the_wrong_sign_is_not_believed():
    """Two trainings that differ by chance: L0 rose with λ. The next step still raises λ, as L0 is above the target."""
    noisy = iter([12.0, 12.5, 10.0])
    asked, _ = search(lambda setting: next(noisy), target=10, start=3.0)
    assert asked[0] < asked[1] < asked[2]


def test_a_step_is_bounded():
    asked, _ = search(lambda setting: 1000.0 / setting, target=1.0, start=1.0, most=3)
    assert asked == pytest.approx([1, MOST_FACTOR, MOST_FACTOR**2])


def test_a_dictionary_in_which_nothing_fires_is_told():
    with pytest.raises(ConfigError, match="nothing fires at a sparsity setting of 3"):
        search(lambda setting: 0.0, target=10, start=3.0)
