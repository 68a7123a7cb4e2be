"""Streaming statistics of how units (features or neurons) agree with proxies and with documents' true kinds.

Each takes rows as they come and keeps nothing that grows with their number. "Active" is an activation above 0.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Int64
from numpy import ndarray
from torch import Tensor

from sae.errors import NumericsError

UnitRows = Float32[Tensor, "row unit"]
TargetRows = Float64[Tensor, "row target"]


class Correlations:
    """Pearson correlation of every unit with every target, exact: float64 sums of values, squares and products."""

    def __init__(self, n_units: int, n_targets: int, device: str | torch.device = "cpu"):
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.n = 0
        self._x, self._xx, self._xy = zeros(n_units), zeros(n_units), zeros(n_targets, n_units)
        self._y, self._yy = zeros(n_targets), zeros(n_targets)

    def add(self, x: UnitRows, y: TargetRows) -> None:
        wide = x.double()
        self.n += len(x)
        with_ones = torch.cat((y, torch.ones_like(y[:, :1])), dim=1)
        products = with_ones.T @ wide  # a matrix product with a row of ones sums columns 10 times faster than sum(0)
        self._xy += products[:-1]
        self._x += products[-1]
        self._xx += (with_ones[:, -1:].T @ (wide * wide))[0]
        self._y += y.sum(0)
        self._yy += (y * y).sum(0)

    def pearson(self) -> Float64[ndarray, "target unit"]:
        """NaN where the unit or the target never varies. Raises `NumericsError` where an activation was NaN or infinite."""
        if not torch.isfinite(self._xx).all():
            unit = int(torch.nonzero(~torch.isfinite(self._xx))[0])
            raise NumericsError(f"NaN or infinite activations at unit {unit}; train the transformer or dictionary again")
        n = max(self.n, 1)
        x_spread, y_spread = self._xx - self._x**2 / n, self._yy - self._y**2 / n
        joint = self._xy - self._y[:, None] * self._x / n
        # A spread of a 1e-12th of the squares is what rounding leaves of none.
        varies = (y_spread > 1e-12 * self._yy)[:, None] & (x_spread > 1e-12 * self._xx)
        r = joint / (y_spread[:, None] * x_spread).clamp_min(1e-300).sqrt()
        return torch.where(varies, r, torch.nan).cpu().numpy()


class Strongest:
    """The `k` largest activations of each unit, and the rows that they are from; of equal ones the earlier row's.

    Only what exceeds a unit's `k`-th largest so far is kept for sorting, so that late rows cost one comparison.
    """

    def __init__(self, n_units: int, k: int, device: str | torch.device = "cpu", pending: int = 2**20):
        self.k, self._pending_limit, self._n_rows = k, pending, 0
        self._values = torch.full((n_units, k), -torch.inf, device=device)
        self._rows = torch.full((n_units, k), -1, dtype=torch.int64, device=device)
        self._threshold = torch.zeros(n_units, device=device)
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._n_pending = 0

    def add(self, x: UnitRows) -> None:
        row, unit = torch.nonzero(x > self._threshold, as_tuple=True)
        self._pending.append((unit, x[row, unit], row + self._n_rows))
        self._n_pending += len(row)
        self._n_rows += len(x)
        if self._n_pending >= self._pending_limit:
            self._merge()

    def _merge(self) -> None:
        unit, slot = torch.nonzero(self._rows >= 0, as_tuple=True)
        parts = [(unit, self._values[unit, slot], self._rows[unit, slot]), *self._pending]
        unit, value, row = (torch.cat(columns) for columns in zip(*parts, strict=True))
        order = torch.argsort(value, descending=True, stable=True)  # earlier rows come first in `parts`, so ties keep them
        order = order[torch.argsort(unit[order], stable=True)]
        unit, value, row = unit[order], value[order], row[order]
        counts = torch.bincount(unit, minlength=len(self._values))
        rank = torch.arange(len(unit), device=unit.device) - (counts.cumsum(0) - counts)[unit]
        kept = rank < self.k
        self._values[unit[kept], rank[kept]] = value[kept]
        self._rows[unit[kept], rank[kept]] = row[kept]
        self._threshold = self._values[:, -1].clamp_min(0.0)
        self._pending, self._n_pending = [], 0

    def result(self) -> tuple[Float[ndarray, "unit k"], Int64[ndarray, "unit k"]]:
        """Activations in falling order and their rows; -inf and -1 where a unit was active on fewer than `k` rows."""
        if self._pending:
            self._merge()
        return self._values.cpu().numpy(), self._rows.cpu().numpy()


SCORE_EDGES = (-10.0, 0.0, 3.0, 10.0, 30.0, 100.0)
"""Nats. A score falls in bin i where it is above edge i-1 and not above edge i. One edge is 0, so bins tell the sign."""
FIRST_POSITIVE = 1 + SCORE_EDGES.index(0.0)
N_INTERVALS = 66
"""Equal-width intervals of (0, maximum] that a Tally keeps: six for each of the 11 that the report shows (TM, footnote 22)."""


def score_bins(scores: Float[ndarray, "..."]) -> Int[ndarray, "..."]:
    """The bin of each score, by `SCORE_EDGES`."""
    return np.searchsorted(SCORE_EDGES, scores, side="left")


class Tally:
    """One unit's active tokens, counted and summed by interval of activation, bin of the proxy's score, and true kind."""

    def __init__(self, maximum: float):
        self.maximum = maximum
        self.counts = np.zeros((N_INTERVALS, len(SCORE_EDGES) + 1, 2), dtype=np.int64)
        """Tokens, [interval, score bin, whether of the kind]."""
        self.sums = np.zeros(self.counts.shape)
        """Their activations, summed."""

    def add(self, x: Float[ndarray, " row"], score_bin: Int[ndarray, " row"], of_kind: Int[ndarray, " row"]) -> None:
        active = x > 0
        values = x[active].astype(np.float64)
        interval = np.ceil(values * (N_INTERVALS / self.maximum)).astype(np.int64) - 1
        # Encoding a few features alone may round differently from all of them: the maximum may be exceeded by a bit.
        interval = interval.clip(0, N_INTERVALS - 1)
        index = np.ravel_multi_index((interval, score_bin[active], of_kind[active]), self.counts.shape)
        self.counts += np.bincount(index, minlength=self.counts.size).reshape(self.counts.shape)
        self.sums += np.bincount(index, weights=values, minlength=self.counts.size).reshape(self.counts.shape)


class Levels(NamedTuple):
    """Of some active tokens (or of their activation), how much is of the hypothesis, by interval of activation."""

    total: Float[ndarray, " interval"]
    proxy: Float[ndarray, " interval"]
    """Where the proxy's score is positive."""
    kind: Float[ndarray, " interval"]
    """In documents of the kind."""


def levels(table: ndarray, n_intervals: int = 1) -> Levels:
    """A Tally's `counts` or `sums` over `n_intervals` equal intervals (a divisor of `N_INTERVALS`)."""
    coarse = table.reshape(n_intervals, -1, *table.shape[1:]).sum(1).astype(np.float64)
    return Levels(coarse.sum((1, 2)), coarse[:, FIRST_POSITIVE:].sum((1, 2)), coarse[:, :, 1].sum(1))
