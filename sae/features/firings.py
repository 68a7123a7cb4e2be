"""Everything that fired in one pass: (feature, token, value), held in memory and sorted by feature once."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, Integer
from numpy import ndarray

from sae.errors import ConfigError
from sae.metrics.density import Active

BYTES_EACH = 40
"""Memory at the peak for one firing: 12 as read, 12 sorted, 8 for the order, and a temporary."""


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


@dataclass
class FiringsReader:
    """Gathers the firings of batch after batch, within a budget of memory."""

    n_features: int
    budget: int
    """Bytes."""
    section: str = "features"
    """Of params.yaml, whose `memory_mb` and `n_tokens` the error names."""
    n_firings: int = 0
    _parts: list[tuple[ndarray, ndarray, ndarray]] = field(default_factory=list)

    def add(self, active: Active, token: Int[ndarray, " row"], *, fraction_read: float) -> None:
        """`token` is the index in the pass of each row. Raises `ConfigError` where the budget is spent; `fraction_read` of
        the pass is behind us when this batch is added, from which the message tells what would do."""
        dtype = np.uint16 if self.n_features <= 2**16 else np.int32  # two bytes are sorted by radix, 5 times faster
        row, unit, value = (part.cpu().numpy() for part in active)
        self._parts.append((unit.astype(dtype), token[row].astype(np.int32), value))
        self.n_firings += len(value)
        if self.n_firings * BYTES_EACH > self.budget:
            needed = self.n_firings * BYTES_EACH / fraction_read / 2**20
            raise ConfigError(
                f"{self.section}.memory_mb = {self.budget / 2**20:.0f} is spent after {fraction_read:.0%} of the tokens "
                f"({self.n_firings:,} activations above 0); the whole would need about {needed:,.0f}: raise memory_mb to that, "
                f"or lower {self.section}.n_tokens to {0.95 * fraction_read:.0%} of what it is, or train with a larger l1, "
                "as so many active features are no sparse code"
            )

    def result(self) -> Firings:
        """All that was added; the reader is empty afterwards."""
        empty = (np.zeros(0, np.uint16), np.zeros(0, np.int32), np.zeros(0, np.float32))
        feature, token, value = (np.concatenate(parts) for parts in zip(empty, *self._parts, strict=True))
        self._parts, self.n_firings = [], 0
        order = np.argsort(feature, kind="stable")  # batches come in the order of tokens, and stay in it
        feature, token, value = feature[order], token[order], value[order]
        start = np.searchsorted(feature, np.arange(self.n_features + 1))
        return Firings(self.n_features, feature, token, value, start)
