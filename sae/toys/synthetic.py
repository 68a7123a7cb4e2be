"""Rows made from known features: sparse, of unequal frequency, some in correlated groups, with noise. The truth is kept.

    from sae.toys.synthetic import SyntheticConfig, SyntheticRows
    toy = SyntheticRows(SyntheticConfig(n_features=1024, d_mlp=256, mean_l0=8))
    dictionary = sae.train(toy, ...)
    toy.directions, toy.frequencies                       # what it should find
    rows, activations = toy.sample(4096, seed=1)          # rows never seen in training, and the true activations

x = Σ_i f_i d_i + noise, with d_i of unit norm and f_i zero or positive. The sum stays linear where rows are not negative
(`nonnegative`): a ReLU over directions of both signs would bend it, and then no direction is the true one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from sae.errors import ConfigError
from sae.shapes import Directions, FeatureActivations, Rows


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What the features are like. Lengths are in units of a feature's mean activation, which is 1 where it is active."""

    n_features: int
    d_mlp: int
    mean_l0: float
    """Mean over rows of the number of active features: the sum of the frequencies."""
    zipf: float = 1.0
    """Exponent of the frequencies' decay: that of rank r (from 1) is proportional to r^-zipf; 0 makes all equal."""
    max_frequency: float = 0.25
    """No feature is active on a larger fraction of rows; what that cuts off goes to the others in proportion."""
    n_groups: int = 0
    """Groups that are switched on and off together, spread evenly over the ranks; features in none are independent."""
    group_size: int = 4
    """Features of a group: neighbours in rank, so alike in frequency."""
    member_probability: float = 0.5
    """P(feature | its group is on) of a group's most frequent feature; given that, its features are independent."""
    min_activation: float = 0.2
    """An active feature's activation is this plus an exponential variable, with a mean of 1 in all: variance (1 - this)²."""
    noise: float = 0.02
    """Standard deviation of the normal noise on each neuron, before a ReLU cuts off what is negative."""
    nonnegative: bool = True
    """Rows as an MLP's after its ReLU: directions have no negative coefficient. False: both signs, and no ReLU."""
    neuron_fraction: float = 0.125
    """Fraction of the neurons at which a direction is not 0, drawn for each feature; at least one. Without negative
    coefficients the mean cosine of two directions is about 2/π of this: 1 would make all of them much alike."""
    seed: int = 0
    """Of the directions. Frequencies and activations do not depend on it."""

    def __post_init__(self) -> None:
        for name, least in (("n_features", 1), ("d_mlp", 1), ("n_groups", 0), ("group_size", 1), ("zipf", 0), ("noise", 0)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be at least {least}")
        if not 0 < self.max_frequency < 1:
            raise ConfigError(f"'max_frequency' = {self.max_frequency}: must lie between 0 and 1, both excluded")
        if not 0 < self.mean_l0 <= self.n_features * self.max_frequency:
            raise ConfigError(
                f"'mean_l0' = {self.mean_l0}: {self.n_features} features of a frequency of at most {self.max_frequency} "
                f"allow what is above 0 and up to {self.n_features * self.max_frequency}"
            )
        if not 0 <= self.min_activation <= 1:
            raise ConfigError(f"'min_activation' = {self.min_activation}: must be between 0 and 1, the mean activation")
        if self.n_groups * self.group_size > self.n_features:
            raise ConfigError(
                f"{self.n_groups} groups of {self.group_size} need {self.n_groups * self.group_size} features of "
                f"{self.n_features}; take fewer or smaller groups"
            )
        if not self.max_frequency < self.member_probability <= 1:
            raise ConfigError(
                f"'member_probability' = {self.member_probability}: must be above 'max_frequency' ({self.max_frequency}), "
                f"or a group would be on more than always, and at most 1"
            )
        if not 0 < self.neuron_fraction <= 1:
            raise ConfigError(f"'neuron_fraction' = {self.neuron_fraction}: must be above 0 and at most 1")


class Sample(NamedTuple):
    """Rows and the truth about them."""

    rows: Rows
    activations: FeatureActivations
    """Of the true features, [row, feature]; 0 where one is not active."""


class _Switches(NamedTuple):
    """What is drawn independently: a group, or a feature that is in none, each with its features in slots."""

    probability: Float[ndarray, " switch"]
    """Of being on, on one row."""
    feature: Int[ndarray, "switch slot"]
    conditional: Float[ndarray, "switch slot"]
    """P(feature | on); 0 in an empty slot."""


class _Entries(NamedTuple):
    """The active entries of [row, feature], by row."""

    row: Int[ndarray, " entry"]
    feature: Int[ndarray, " entry"]
    value: Float[ndarray, " entry"]


class SyntheticRows:
    """An endless source of rows made from known features."""

    def __init__(self, config: SyntheticConfig):
        self.config, self.d_mlp, self.n_features = config, config.d_mlp, config.n_features
        self.directions: Directions = _directions(config)
        """[feature, d_mlp], unit norm, the most frequent feature first."""
        frequencies = zipf_frequencies(config.n_features, config.mean_l0, config.zipf, config.max_frequency)
        self.frequencies = torch.from_numpy(frequencies)
        """[feature], float64: fraction of rows on which each is active."""
        group = _groups(config)
        self.group = torch.from_numpy(group)
        """[feature]: the number of its group; -1 where it is in none."""
        self._switches = _switches(frequencies, group, config.member_probability)

    def batches(self, n_rows: int, *, seed: int = 0, start: int = 0) -> Iterator[Rows]:
        """Endless batches of `n_rows` from number `start` on. Batch k depends on (n_rows, seed, k) alone, and costs nothing
        to skip; two seeds share no row, so held-out rows are those of another seed."""
        number = start
        while True:
            rng = _generator(seed, number)
            yield self._rows(self._entries(n_rows, rng), n_rows, rng)
            number += 1

    def sample(self, n_rows: int, seed: int = 0, number: int = 0) -> Sample:
        """The rows of batch `number` of `batches(n_rows, seed=seed)` with the true activations, which are dense: they take
        4 · n_rows · n_features bytes."""
        rng = _generator(seed, number)
        entries = self._entries(n_rows, rng)
        activations = torch.zeros(n_rows, self.n_features)
        activations[torch.from_numpy(entries.row), torch.from_numpy(entries.feature)] = torch.from_numpy(entries.value)
        return Sample(self._rows(entries, n_rows, rng), activations)

    def _entries(self, n_rows: int, rng: np.random.Generator) -> _Entries:
        """Work and memory grow with the active entries, not with rows times features.

        A switch that is on with probability p gets Poisson(-n_rows ln(1 - p)) strokes, each on a random row. Strokes on
        different rows are independent and a row has none with probability 1 - p: exactly independent draws of p.
        """
        switches = self._switches
        strokes = rng.poisson(-n_rows * np.log1p(-switches.probability))
        row = rng.integers(n_rows, size=int(strokes.sum()))
        cell = np.unique(row * len(strokes) + np.repeat(np.arange(len(strokes)), strokes))
        row, switch = np.divmod(cell, len(strokes))
        entry, slot = np.nonzero(rng.random((len(cell), switches.feature.shape[1])) < switches.conditional[switch])
        least = np.float32(self.config.min_activation)
        value = least + (1 - least) * rng.standard_exponential(len(entry), dtype=np.float32)
        return _Entries(row[entry], switches.feature[switch[entry], slot], value)

    def _rows(self, entries: _Entries, n_rows: int, rng: np.random.Generator) -> Rows:
        rows = torch.nn.functional.embedding_bag(
            torch.from_numpy(entries.feature),
            self.directions,
            torch.from_numpy(np.searchsorted(entries.row, np.arange(n_rows))),
            per_sample_weights=torch.from_numpy(entries.value),
            mode="sum",
        )
        if self.config.noise:
            rows += self.config.noise * torch.from_numpy(rng.standard_normal((n_rows, self.d_mlp), dtype=np.float32))
        return rows.relu_() if self.config.nonnegative else rows


def zipf_frequencies(n_features: int, mean_l0: float, exponent: float, most: float) -> Float[ndarray, " feature"]:
    """min(most, c r^-exponent) for the ranks r = 1, 2, ..., with the one c that makes the sum `mean_l0`.

    With the first k at `most`, c = (mean_l0 - k most) / Σ_{r>k} r^-exponent; k is the least for which the rest stays below.
    """
    weight = np.arange(1, n_features + 1, dtype=np.float64) ** -exponent
    rest = np.cumsum(weight[::-1])[::-1]
    scale = (mean_l0 - np.arange(n_features) * most) / rest
    n_capped = int(np.argmax(scale * weight <= most * (1 + 1e-12)))
    return np.minimum(most, scale[n_capped] * weight)


def _directions(config: SyntheticConfig) -> Tensor:
    rng = _generator(config.seed, None)
    shape = (config.n_features, config.d_mlp)
    directions = rng.standard_normal(shape, dtype=np.float32)
    if config.nonnegative:
        directions = np.abs(directions)
    n_neurons = max(1, round(config.neuron_fraction * config.d_mlp))
    if n_neurons < config.d_mlp:
        dropped = rng.random(shape, dtype=np.float32).argpartition(n_neurons, axis=1)[:, n_neurons:]
        np.put_along_axis(directions, dropped, 0, axis=1)
    return torch.nn.functional.normalize(torch.from_numpy(directions), dim=1)


def _groups(config: SyntheticConfig) -> Int[ndarray, " feature"]:
    group = np.full(config.n_features, -1)
    n_blocks = config.n_features // config.group_size
    for number in range(config.n_groups):
        first = number * n_blocks // config.n_groups * config.group_size
        group[first : first + config.group_size] = number
    return group


def _switches(frequencies: Float[ndarray, " feature"], group: Int[ndarray, " feature"], member_probability: float) -> _Switches:
    """A group is on so often that its most frequent feature has `member_probability` there and its own frequency in all."""
    features = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    n_groups = len(features)
    features += list(np.flatnonzero(group < 0)[:, None])
    probability = np.array([frequencies[members].max() for members in features])
    probability[:n_groups] /= member_probability
    n_slots = max(len(members) for members in features)
    feature, conditional = np.zeros((len(features), n_slots), np.int64), np.zeros((len(features), n_slots))
    for switch, members in enumerate(features):
        feature[switch, : len(members)] = members
        conditional[switch, : len(members)] = frequencies[members] / probability[switch]
    return _Switches(probability, feature, conditional)


def _generator(seed: int, number: int | None) -> np.random.Generator:
    """Of the rows of batch `number`; of the directions where that is None. By spawn keys, which do not run into each other
    as entropy given in lists does: numpy takes [1] and [1, 0] for the same."""
    key = (0,) if number is None else (1, number)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
