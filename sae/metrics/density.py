"""How often units fire: densities, dead and ultralow counts, the log histogram (Towards Monosemanticity, "Feature density").

A unit (feature or neuron) is active on a row where its activation is above 0. Density is the fraction of rows on which it is.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

DENSE = 0.01
"""Units above this density are dense: in number, a sign of a sparsity penalty that is too weak."""
PAPER_ULTRALOW = 1e-6
"""The paper's bound of the ultralow cluster, counted over 100 M tokens."""
BINS_PER_DECADE = 5
"""Of the log histogram. Finer bins show a comb at the low end, where a density is 1, 2, 3 ... firings over the tokens counted."""


class Active(NamedTuple):
    """The non-zero entries of [row, unit], by row, then by unit."""

    row: Int[Tensor, " entry"]
    unit: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]


def active_entries(activations: Float[Tensor, "row unit"]) -> Active:
    """Entries above 0. On a CPU through numpy: 1.8 µs a row of 4,096 against 6.7 with torch.nonzero."""
    if activations.device.type == "cpu":
        flat = torch.from_numpy(np.flatnonzero(activations.numpy() > 0))
    else:
        flat = torch.nonzero(activations.flatten() > 0).flatten()
    row = flat.div(activations.shape[1], rounding_mode="floor")
    return Active(row, flat - row * activations.shape[1], activations.flatten()[flat])


@dataclass
class Firing:
    """On how many rows each unit is active, and how many units a row has active. Merges."""

    n_rows: int
    n_active: Int[Tensor, " unit"]
    """Rows on which each unit is active."""
    l0_rows: Int[Tensor, " count"]
    """Rows with exactly so many active units, [unit + 1]."""

    @classmethod
    def zeros(cls, n_units: int, device: str | torch.device = "cpu") -> "Firing":
        n_active = torch.zeros(n_units, dtype=torch.int64, device=device)
        return cls(0, n_active, torch.zeros(n_units + 1, dtype=torch.int64, device=device))

    def add(self, active: Active, n_rows: int) -> None:
        """Count the active entries of `n_rows` further rows."""
        n_units = self.n_active.shape[0]
        self.n_rows += n_rows
        self.n_active += torch.bincount(active.unit, minlength=n_units)
        self.l0_rows += torch.bincount(torch.bincount(active.row, minlength=n_rows), minlength=n_units + 1)

    def merge(self, other: "Firing") -> "Firing":
        return type(self)(self.n_rows + other.n_rows, self.n_active + other.n_active, self.l0_rows + other.l0_rows)

    @property
    def density(self) -> Float[Tensor, " unit"]:
        """Fraction of rows, float64."""
        return self.n_active.double() / max(self.n_rows, 1)

    @property
    def l0(self) -> float:
        """Mean over rows of the number of active units."""
        return float(self.n_active.sum()) / max(self.n_rows, 1)


class DensitySummary(NamedTuple):
    """Counts of units by density, over `n_tokens` rows. Dead, ultralow and the rest are disjoint, as in the paper."""

    n_units: int
    n_tokens: int
    n_dead: int
    """Active on none of the tokens."""
    n_alive: int
    """The others."""
    n_ultralow: int | None
    """Alive, with a density below the threshold; None where `n_tokens` are too few to tell (see `resolves`)."""
    n_ultralow_paper: int | None
    """The same at the paper's 1e-6."""
    n_dense: int
    """Density above 1 %."""
    median_density: float | None
    """Of the alive ones; None where there is none."""
    l0: float
    """Mean over tokens of the number of active units."""


def resolves(n_tokens: int, density: float) -> bool:
    """Whether `n_tokens` rows can tell a unit of this density from a dead one.

    A unit of density d is silent on N rows with probability (1 - d)^N, about exp(-dN): 5 % at N = 3/d, which is the least
    that is accepted. Below it every unit that fires at all has a density above the threshold's neighbourhood, and a count
    of 0 would say nothing.
    """
    return n_tokens * density >= 3.0 * (1 - 1e-9)


def summarize(firing: Firing, ultralow: float) -> DensitySummary:
    """Counts at the threshold `ultralow`, and at the paper's."""
    density = firing.density.cpu().numpy()
    alive = density > 0

    def below(threshold: float) -> int | None:
        return int((alive & (density < threshold)).sum()) if resolves(firing.n_rows, threshold) else None

    return DensitySummary(
        n_units=len(density),
        n_tokens=firing.n_rows,
        n_dead=int((~alive).sum()),
        n_alive=int(alive.sum()),
        n_ultralow=below(ultralow),
        n_ultralow_paper=below(PAPER_ULTRALOW),
        n_dense=int((density > DENSE).sum()),
        median_density=float(np.median(density[alive])) if alive.any() else None,
        l0=firing.l0,
    )


def log_edges(n_tokens: int) -> Float[ndarray, " edge"]:
    """Edges of the log10 density's histogram, from at or below one firing in `n_tokens` up to 0 (always active)."""
    decades = max(1, int(np.ceil(np.log10(max(n_tokens, 1)) - 1e-9)))
    return np.linspace(-decades, 0, decades * BINS_PER_DECADE + 1)


def log_histogram(firing: Firing, edges: Float[ndarray, " edge"]) -> Int[ndarray, " bin"]:
    """Number of alive units in each bin of log10 density; the last bin holds its upper edge."""
    density = firing.density.cpu().numpy()
    return np.histogram(np.log10(density[density > 0]), bins=edges)[0].astype(np.int64)
