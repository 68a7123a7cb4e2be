"""Everything that fired in one pass: (feature, token, value), held in memory and sorted by feature once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, Integer
from numpy import ndarray

from sae.errors import ConfigError
from sae.metrics.density import Active

BYTES_EACH = 48
"""Memory at the peak for one firing: 12 as read, 12 sorted, 8 for the order, a temporary, and holes in the heap."""


@dataclass(frozen=True)
class Firings:
    """Sorted by feature, then by token."""

    n_features: int
    feature: Integer[ndarray, " firing"]
    token: Int[ndarray, " firing"]
    """Index into the [context, position] of the pass, flattened; int32."""
    value: Float[ndarray, " firing"]
    """Above 0, float32."""
    start: Int[ndarray, " boundary"]
    """Firings of feature i are `start[i] : start[i + 1]`; [feature + 1]."""

    @property
    def n_active(self) -> Int[ndarray, " feature"]:
        """Tokens on which each feature fires."""
        return np.diff(self.start)

    def of(self, feature: int | np.integer) -> tuple[Int[ndarray, " active"], Float[ndarray, " active"]]:
        """Tokens on which one feature fires, in order, and its values there."""
        part = slice(self.start[feature], self.start[feature + 1])
        return self.token[part], self.value[part]

    def maximum(self) -> Float[ndarray, " feature"]:
        """Largest value of each feature, float32; 0 for one that never fired."""
        return self._reduce(np.maximum, self.value)

    def sums(self) -> tuple[Float[ndarray, " feature"], Float[ndarray, " feature"]]:
        """Sum of values and of their squares for each feature, float64."""
        wide = self.value.astype(np.float64)
        return self._reduce(np.add, wide), self._reduce(np.add, wide * wide)

    def count(self, group: Int[ndarray, " firing"], n_groups: int) -> Int[ndarray, "feature group"]:
        """Firings of each feature in each group."""
        flat = self.feature.astype(np.int64) * n_groups + group
        return np.bincount(flat, minlength=self.n_features * n_groups).reshape(self.n_features, n_groups)

    def block(self, features: slice) -> "Firings":
        """Of some features, which are counted from 0 on."""
        start = self.start[features.start : features.stop + 1]
        part = slice(start[0], start[-1])
        feature = self.feature[part] - self.feature.dtype.type(features.start)
        return Firings(len(start) - 1, feature, self.token[part], self.value[part], start - start[0])

    def _reduce(self, operation: np.ufunc, values: ndarray) -> ndarray:
        result = np.zeros(self.n_features, values.dtype)
        fired = self.n_active > 0
        if fired.any():
            result[fired] = operation.reduceat(values, self.start[:-1][fired])
        return result


def interval_of(value: ndarray, maximum: ndarray | np.floating, n_intervals: int) -> Int[ndarray, " firing"]:
    """Which of `n_intervals` of equal width over (0, maximum] holds each value, 0 the lowest. An upper edge belongs to its
    interval, a lower one to the one below, so no value is in two (peers count borders twice, and the inactive tokens as
    part of the lowest interval)."""
    scaled = value.astype(np.float64) / maximum * n_intervals
    return np.clip(np.ceil(scaled).astype(np.int64) - 1, 0, n_intervals - 1)


def merged_firings(parts: Sequence[Firings]) -> Firings:
    """Those of parts of a pass, in the order of their tokens, as if they had been read in one."""
    first = parts[0]
    counts = np.sum([part.n_active for part in parts], 0)
    start = np.concatenate([[0], np.cumsum(counts)])
    feature = np.repeat(np.arange(first.n_features, dtype=first.feature.dtype), counts)
    token, value = np.empty(start[-1], first.token.dtype), np.empty(start[-1], first.value.dtype)
    begin = start[:-1].copy()
    for part in parts:
        place = np.arange(len(part.token)) + np.repeat(begin - part.start[:-1], part.n_active)
        token[place], value[place] = part.token, part.value
        begin += part.n_active
    return Firings(first.n_features, feature, token, value, start)


def check_budget(n_firings: int, budget: int, fraction_read: float, section: str) -> None:
    """Raises `ConfigError` where so many take more than `budget` bytes; `fraction_read` of the pass is behind us."""
    if n_firings * BYTES_EACH <= budget:
        return
    needed = n_firings * BYTES_EACH / fraction_read
    more = math.ceil(1.6 * (needed - budget) / 2**20)  # of what is added to memory_mb five eighths at least are for firings
    raise ConfigError(
        f"{section}.memory_mb leaves {budget / 2**20:,.1f} for what fires, which is spent after {fraction_read:.0%} of the tokens"
        f" ({n_firings:,} activations above 0); the whole would need about {needed / 2**20:,.1f}: raise memory_mb by {more:,}, "
        f"or lower {section}.n_tokens to {95 * budget / needed:.2g}% of what it is, or train with a larger l1, "
        "as so many active features are no sparse code"
    )


def feature_type(n_features: int) -> type[np.unsignedinteger | np.signedinteger]:
    """Two bytes where they do: they are sorted by radix, 5 times faster."""
    return np.uint16 if n_features <= 2**16 else np.int32


@dataclass
class FiringsReader:
    """Gathers the firings of batch after batch, within a budget of memory."""

    n_features: int
    budget: int | None
    """Bytes; None where the caller checks what it holds (`check_budget`)."""
    section: str = "features"
    """Of params.yaml, whose `memory_mb` and `n_tokens` the error names."""
    n_firings: int = 0
    _parts: list[tuple[ndarray, ndarray, ndarray]] = field(default_factory=list)

    def add(self, active: Active, token: Int[ndarray, " row"], *, fraction_read: float) -> None:
        """`token` is the index in the pass of each row. Raises `ConfigError` where the budget is spent; `fraction_read` of
        the pass is behind us when this batch is added, from which the message tells what would do."""
        row, unit, value = (part.cpu().numpy() for part in active)
        self._parts.append((unit.astype(feature_type(self.n_features)), token[row].astype(np.int32), value))
        self.n_firings += len(value)
        if self.budget is not None:
            check_budget(self.n_firings, self.budget, fraction_read, self.section)

    def result(self) -> Firings:
        """All that was added; the reader is empty afterwards."""
        empty = (np.zeros(0, np.uint16), np.zeros(0, np.int32), np.zeros(0, np.float32))
        feature, token, value = (np.concatenate(parts) for parts in zip(empty, *self._parts, strict=True))
        self._parts, self.n_firings = [], 0
        order = np.argsort(feature, kind="stable")  # batches come in the order of tokens, and stay in it
        feature, token, value = feature[order], token[order], value[order]
        start = np.concatenate([[0], np.cumsum(np.bincount(feature, minlength=self.n_features))])
        return Firings(self.n_features, feature, token, value, start)
