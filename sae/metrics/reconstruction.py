"""How well x̂ stands for x: squared error, fraction of variance unexplained, L0, L1, cosine. Sums over rows, in float64.

The names say the reductions, because peers' do not and differ: SAELens's `mse` is the sum over d_mlp, SAEBench's divides by
the rows twice, and the two libraries' `explained_variance` are different formulas (docs/method.md, "Metrics").
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from sae.accumulate import Moments
from sae.metrics.density import Active
from sae.metrics.similarity import row_cosine
from sae.shapes import Rows


class Reconstruction(NamedTuple):
    """All over the same rows."""

    n_tokens: int
    """Rows."""
    squared_error_sum: float
    """Mean over rows of Σ_d (x - x̂)², in squared units of activation."""
    squared_error_mean: float
    """Mean over rows and over d_mlp of (x - x̂)²: the above divided by d_mlp."""
    fvu: float
    """Fraction of variance unexplained: Σ_rows ‖x - x̂‖² / Σ_rows ‖x - mean of x over these rows‖²; R² is 1 - this."""
    l0: float
    """Mean over rows of the number of active features."""
    l1: float
    """Mean over rows of the sum of feature activations."""
    cosine: float
    """Mean over rows of the cosine of x and x̂ (about 0, not about the mean); a zero row counts as 0."""
    norm_ratio: float
    """sqrt(Σ_rows ‖x̂‖² / Σ_rows ‖x‖²): below 1 where the L1 penalty shrinks."""


@dataclass
class ReconstructionSums:
    """Running sums of all that `Reconstruction` needs. Merges."""

    x: Moments
    n_entries: int = 0
    squared_error: float = 0.0
    activation: float = 0.0
    cosine: float = 0.0
    reconstructed_square: float = 0.0

    @classmethod
    def zeros(cls, d_mlp: int, device: str | torch.device = "cpu") -> "ReconstructionSums":
        return cls(Moments.zeros(d_mlp, device))

    def add(self, x: Rows, active: Active, x_hat: Rows) -> None:
        """Further rows `x`, their active feature entries, and their reconstruction."""
        self.x.add(x)
        self.n_entries += active.value.shape[0]
        self.squared_error += float((x.double() - x_hat.double()).square().sum())
        self.activation += float(active.value.double().sum())
        self.cosine += float(row_cosine(x, x_hat).sum())
        self.reconstructed_square += float(x_hat.double().square().sum())

    def merge(self, other: "ReconstructionSums") -> "ReconstructionSums":
        return type(self)(
            self.x.merge(other.x),
            self.n_entries + other.n_entries,
            self.squared_error + other.squared_error,
            self.activation + other.activation,
            self.cosine + other.cosine,
            self.reconstructed_square + other.reconstructed_square,
        )

    def result(self) -> Reconstruction:
        """NaN where no row was added or nothing varies."""
        n, squared_deviation = self.x.n, float(self.x.squared_deviation.sum())
        square = float(self.x.squares.sum())
        return Reconstruction(
            n_tokens=n,
            squared_error_sum=_ratio(self.squared_error, n),
            squared_error_mean=_ratio(self.squared_error, n * self.x.total.shape[0]),
            fvu=_ratio(self.squared_error, squared_deviation),
            l0=_ratio(self.n_entries, n),
            l1=_ratio(self.activation, n),
            cosine=_ratio(self.cosine, n),
            norm_ratio=_ratio(self.reconstructed_square, square) ** 0.5,
        )


def _ratio(a: int | float, b: int | float) -> float:
    return a / b if b else float("nan")
