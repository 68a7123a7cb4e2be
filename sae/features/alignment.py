"""How far the features of a dictionary are from being neurons: distributions over all of them, beside random directions.

A feature that is a neuron has one coefficient of 1; one that is spread over all n neurons alike has n of 1/√n. Random directions
are the control: they are what a dictionary vector looks like that knows nothing of the basis of neurons.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from sae.chance import generator
from sae.errors import ConfigError
from sae.features.neurons import TENTH, participation_ratio
from sae.features.table import FeatureTable

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ONE, FEW = 1.5, 10.0
"""Participation ratios up to which a feature is called one neuron, or a few."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Quantiles (`QUANTILES`) over directions of unit norm."""

    largest_coefficient: tuple[float, ...]
    """The largest |coefficient|."""
    n_above_tenth: tuple[float, ...]
    """Neurons with |coefficient| of at least 0.1."""
    participation_ratio: tuple[float, ...]
    """1 / Σ c⁴: n where n neurons have coefficients alike and the others 0."""
    share_one_neuron: float
    """Fraction with a participation ratio of at most 1.5."""
    share_few_neurons: float
    """Fraction with one above that, of at most 10."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Of the features that fired, and of random directions in the same space."""

    n_features: int
    d_mlp: int
    features: Spread
    random: Spread
    neuron_correlation: tuple[float, ...]
    """Quantiles over features of the Pearson correlation with the neuron that has the largest."""

    def __str__(self) -> str:
        head = " ".join(f"{f'{q:.0%}':>7}" for q in QUANTILES)
        lines = [f"{self.n_features:,} features over {self.d_mlp:,} neurons; quantiles{'':<23}{head}"]
        for name in ("largest_coefficient", "n_above_tenth", "participation_ratio"):
            for whose, spread in (("features", self.features), ("random directions", self.random)):
                values = " ".join(f"{value:7.3g}" for value in getattr(spread, name))
                lines.append(f"{name.replace('_', ' '):<26}{whose:<28}{values}")
        lines.append(f"{'correlation with a neuron':<26}{'features':<28}{' '.join(f'{r:7.3g}' for r in self.neuron_correlation)}")
        shares = f"{self.features.share_one_neuron:.1%} are one neuron, {self.features.share_few_neurons:.1%} a few (at most 10)"
        return "\n".join([*lines, f"by participation ratio {shares}"])


def alignment(table: FeatureTable, d_mlp: int, *, n_random: int = 4096, seed: int = 0) -> Alignment:
    """From the neuron columns of a table; `n_random` directions are drawn for the control.

    Raises `ConfigError` where no feature fired.
    """
    fired = table["n_active"] > 0
    if not fired.any():
        raise ConfigError("no feature of this table fired: there is nothing to compare with neurons")
    largest = np.abs(table["neuron_coefficient_values"][fired, 0])
    features = _spread(largest, table["n_neurons_above_tenth"][fired], table["participation_ratio"][fired])
    return Alignment(
        n_features=int(fired.sum()),
        d_mlp=d_mlp,
        features=features,
        random=random_spread(d_mlp, n_random, seed),
        neuron_correlation=_quantiles(table["neuron_correlated_values"][fired, 0]),
    )


def random_spread(d_mlp: int, n: int, seed: int) -> Spread:
    """Of `n` directions drawn evenly from the sphere."""
    drawn = generator(seed, "random directions").standard_normal((n, d_mlp))
    unit = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    ratio = participation_ratio(torch.from_numpy(unit).float()).numpy()
    return _spread(np.abs(unit).max(1), (np.abs(unit) >= TENTH).sum(1), ratio)


def expected_above_tenth(d_mlp: int) -> float:
    """Mean of `n_above_tenth` over random directions, for many neurons: a coefficient is then normal with variance 1 / d_mlp."""
    return d_mlp * math.erfc(TENTH * math.sqrt(d_mlp / 2))


def _spread(largest: ndarray, above: ndarray, ratio: ndarray) -> Spread:
    return Spread(
        largest_coefficient=_quantiles(largest),
        n_above_tenth=_quantiles(above),
        participation_ratio=_quantiles(ratio),
        share_one_neuron=float((ratio <= ONE).mean()),
        share_few_neurons=float(((ratio > ONE) & (ratio <= FEW)).mean()),
    )


def _quantiles(values: Float[ndarray, " feature"] | ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in np.quantile(values, QUANTILES))
