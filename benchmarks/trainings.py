"""One dictionary by each contestant of `benchmarks.quality`, on the same rows at the same sizes, in the same convention.

What a peer's documentation recommends and its defaults do not (schedules), it is given: SAELens' tutorial has λ rise over a
twentieth of the run and the learning rate fall over the last fifth; dictionary_learning's demo has the learning rate fall over
the last fifth too. Neither resamples: SAELens has none, dictionary_learning's is off unless asked for.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from benchmarks import peers
from benchmarks.measures import from_weights
from pipelines.feed import train_params
from sae.config import read_params, read_section
from sae.dictionary.base import Dictionary
from sae.training.config import TrainConfig
from sae.training.fit import fit


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What all contestants have in common."""

    steps: int
    width: int
    """Features."""
    batch_size: int
    threads: int = 1
    """Of a peer's process; ours runs on the threads that this one has."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a contestant is given beside the sizes."""

    sparsity: float
    """λ on the rows as they are, or the wanted L0; see `Contestant`."""
    lr: float | None
    """None: the recipe's own for this many steps."""
    seed: int
    """Of the weights and of the order of the rows."""


class Contestant(NamedTuple):
    """`train(rows [row, d_mlp], sizes, settings)`; rows have a mean ‖x‖² of d_mlp, and the dictionary is for such rows."""

    train: Callable[[Tensor, Sizes, Settings], Dictionary]
    learning_rates: tuple[float | None, ...]
    """Tried with the first seed at equal L0; the one of the lower FVU stays."""
    by_target: bool = False
    """`Settings.sparsity` is the L0 that the training itself steers for, not λ."""


def train_pipelines_recipe(rows: Tensor, sizes: Sizes, settings: Settings) -> Dictionary:
    """As the pipeline trains: section `train` of params.yaml, but for the sizes, λ, learning rate and seeds."""
    config = read_section(train_params(read_params(peers.ROOT / "params.yaml")), "train", TrainConfig)
    return _ours(dataclasses.replace(config, l1=settings.sparsity, target_l0=None), rows, sizes, settings)


def train_april2024(rows: Tensor, sizes: Sizes, settings: Settings) -> Dictionary:
    """The recipe but for its learning rate, which is meant for 200,000 steps; steering for an L0."""
    return _ours(TrainConfig(recipe="april2024", target_l0=settings.sparsity), rows, sizes, settings)


def _ours(config: TrainConfig, rows: Tensor, sizes: Sizes, settings: Settings) -> Dictionary:
    config = dataclasses.replace(
        config,
        n_steps=sizes.steps,
        n_features=sizes.width,
        batch_size=sizes.batch_size,
        learning_rate=settings.lr,
        seed=settings.seed,
        data_seed=settings.seed,
    )
    return fit(rows, [config], device="cpu")[0].dictionary


def train_saelens(rows: Tensor, sizes: Sizes, settings: Settings) -> Dictionary:
    """SAELens' standard dictionary, with the schedule of its tutorial."""
    return _peer("saelens", rows, sizes, settings, l1_warm_up_steps=sizes.steps // 20, lr_decay_steps=sizes.steps // 5)


def train_dictionary_learning(rows: Tensor, sizes: Sizes, settings: Settings) -> Dictionary:
    """dictionary_learning's `StandardTrainer`: warm-ups as `benchmarks.steppers.dictlearning` shortens them, its demo's decay."""
    return _peer("dictionary_learning", rows, sizes, settings, decay_start=sizes.steps * 4 // 5)


def _peer(name: str, rows: Tensor, sizes: Sizes, settings: Settings, **options: int) -> Dictionary:
    weights = peers.train(
        name,
        rows,
        threads=sizes.threads,
        steps=sizes.steps,
        width=sizes.width,
        l1=settings.sparsity,
        lr=settings.lr,
        batch_size=sizes.batch_size,
        seed=settings.seed,
        **options,
    )
    return from_weights(weights.W_enc, weights.b_enc, weights.W_dec, weights.b_dec, tied=weights.tied)


RATES = (1.5e-3, 4e-3, 8e-3)
"""The peers' own default, 3e-4, is for longer runs: at these lengths it was far behind for both."""
CONTESTANTS = {
    "ours, default": Contestant(train_pipelines_recipe, (None,)),
    "saelens": Contestant(train_saelens, RATES),
    "dictionary_learning": Contestant(train_dictionary_learning, RATES),
    "ours, april2024": Contestant(train_april2024, RATES, by_target=True),
}
