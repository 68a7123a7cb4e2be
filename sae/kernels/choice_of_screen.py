"""Which screen the sparse step takes: each is timed on real steps, and the quickest stays until the data change.

All screens give the same bits, so nothing is lost by trying, and a choice that the clock got wrong costs time alone. No table of
processors is asked: a processor may have an instruction and be slow at it.
"""

from collections.abc import Sequence
from typing import Any

from sae.kernels.screens import Screen

ROUNDS = 2
"""Steps that each screen is timed on: the first of a kind in a process also compiles, so the less of the times counts."""
CHANGE = 3.0
"""A trial is held again once the density of f or of what is listed of x is this many times what it was, or this part of it."""
HOPELESS = 2.0
"""A screen that an earlier trial has compiled and that takes this many times as long as another is not asked a second time."""
WORTH_FROM = 500
"""Steps of a run from which on it pays: a trial is ten steps at most, some of them slow, and may compile what is never used."""
LEAST = 1e-4
"""Densities below it are one and the same."""


class ScreenChoice:
    """Says which screen comes next (`next`), and is told how long the step's first half took with it (`took`)."""

    def __init__(self, kinds: Sequence[type[Screen]], n_features: int):
        assert kinds, "no screen to choose from"
        self.kinds, self.n_features = tuple(kinds), n_features
        self.chosen: type[Screen] | None = None
        """None while a trial is under way."""
        self.news: list[dict[str, Any]] = []
        """What was chosen and why, one entry a trial; whoever reads it empties it."""
        self._screens: dict[type[Screen], Screen] = {}
        self._known: set[type[Screen]] = set()
        self._least: dict[type[Screen], float] = {}
        self._queue: list[type[Screen]] = []
        self._densities: tuple[float, ...] = ()

    def next(self, *densities: float) -> Screen:
        """The screen for a step at these densities (any fixed number of them, each from 0 to 1)."""
        if self._has_changed(densities):
            self.chosen = None
            self._known |= set(self._least)
            self._densities, self._least = densities, {}
            self._queue = list(self.kinds) * ROUNDS
        return self.screen(self.chosen or self._queue[0])

    def screen(self, kind: type[Screen]) -> Screen:
        """The screen of that kind, with its buffers, made at first use. No trial is held."""
        if kind not in self._screens:
            self._screens[kind] = kind(self.n_features)
        return self._screens[kind]

    def took(self, screen: Screen, seconds: float) -> None:
        """The step's first half took `seconds` with `screen`."""
        kind = type(screen)
        if self.chosen is not None or not self._queue or self._queue[0] is not kind:
            return
        del self._queue[0]
        self._least[kind] = min(seconds, self._least.get(kind, seconds))
        best = min(self._least.values())
        hopeless = {each for each in self._known & set(self._least) if self._least[each] > HOPELESS * best}
        self._queue = [each for each in self._queue if each not in hopeless]
        if not self._queue:
            self._decide()

    def _decide(self) -> None:
        self.chosen = min(self._least, key=lambda kind: self._least[kind])
        milliseconds = {f"{kind.name}_ms": round(1e3 * seconds, 2) for kind, seconds in self._least.items()}
        self.news.append({"chosen": self.chosen.name, **milliseconds})
        for kind in list(self._screens):
            if kind is not self.chosen:
                del self._screens[kind]  # its buffers may be as large as the weights

    def _has_changed(self, densities: tuple[float, ...]) -> bool:
        if len(densities) != len(self._densities):
            return True
        pairs = zip(densities, self._densities, strict=True)
        ratios = [max(now, LEAST) / max(then, LEAST) for now, then in pairs]
        return any(not 1 / CHANGE < ratio < CHANGE for ratio in ratios)
