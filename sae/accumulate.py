"""Running statistics that merge: the statistic of two parts read apart is that of the whole, in any order.

Sums are float64 on the device of what is added, so a million float32 values lose nothing that could be seen.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass
class Moments:
    """Count, sum and sum of squares of every column."""

    n: int
    """Rows added."""
    total: Float[Tensor, " column"]
    """Sum over rows, float64."""
    squares: Float[Tensor, " column"]
    """Sum over rows of the squares, float64."""

    @classmethod
    def zeros(cls, n_columns: int, device: str | torch.device = "cpu") -> "Moments":
        zeros = torch.zeros(n_columns, dtype=torch.float64, device=device)
        return cls(0, zeros, zeros.clone())

    def add(self, rows: Float[Tensor, "row column"]) -> None:
        wide = rows.double()
        self.n += rows.shape[0]
        self.total += wide.sum(0)
        self.squares += wide.square_().sum(0)

    def merge(self, other: "Moments") -> "Moments":
        return type(self)(self.n + other.n, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> Float[Tensor, " column"]:
        """Over rows; NaN where none was added."""
        return self.total / self.n if self.n else torch.full_like(self.total, torch.nan)

    @property
    def squared_deviation(self) -> Float[Tensor, " column"]:
        """Sum over rows of (value - mean)², never negative."""
        return (self.squares - self.total.square() / max(self.n, 1)).clamp_min(0.0)
