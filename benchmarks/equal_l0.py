"""The sparsity setting at which a training ends with a wanted L0: secant steps on the logarithms of both."""

import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from sae.errors import ConfigError

T = TypeVar("T")
MOST_FACTOR = 3.0
"""A step changes the setting by at most this factor: far from the target the elasticity measured nearby says little."""


class Try(NamedTuple, Generic[T]):
    """One training of the search."""

    setting: float
    """λ, or whatever sets the sparsity."""
    l0: float
    made: T
    """What was trained."""

    def miss(self, target: float) -> float:
        """log(L0 / target)."""
        return math.log(self.l0 / target)


def find(
    attempt: Callable[[float], tuple[float, T]],
    *,
    target: float,
    start: float,
    elasticity: float = -1.0,
    tolerance: float = 0.05,
    most: int = 6,
) -> list[Try[T]]:
    """All tries, the one nearest to `target` last; `attempt(setting)` trains and gives (L0, what it made).

    `elasticity` is d log L0 / d log setting as far as it is guessed: a measured one of the other sign (two trainings that
    differ by chance more than by their setting) is not believed. Stops when L0 is within `tolerance` of `target`, relative,
    or after `most` trainings: then the last one misses, which the caller sees by its L0. Raises `ConfigError` for an L0 of 0.
    """
    tries: list[Try[T]] = []
    setting = start
    while len(tries) < most:
        l0, made = attempt(setting)
        if not l0 > 0:
            raise ConfigError(f"nothing fires at a sparsity setting of {setting:g}; start the search from a weaker one")
        tries.append(Try(setting, l0, made))
        if abs(l0 / target - 1) <= tolerance:
            break
        elasticity = _elasticity(tries[-2:], elasticity)
        step = -tries[-1].miss(target) / elasticity
        setting *= math.exp(max(-math.log(MOST_FACTOR), min(math.log(MOST_FACTOR), step)))
    return sorted(tries, key=lambda one: -abs(one.miss(target)))


def _elasticity(last: list[Try[T]], believed: float) -> float:
    """Of the last two tries, where it has the sign of the one `believed` and is not so flat that a step would be wild."""
    if len(last) < 2 or last[0].setting == last[1].setting:
        return believed
    measured = math.log(last[1].l0 / last[0].l0) / math.log(last[1].setting / last[0].setting)
    return measured if measured * believed > 0 and abs(measured) > abs(believed) / 10 else believed
