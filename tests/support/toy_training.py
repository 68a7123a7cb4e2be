"""Trainings small enough for a test, and what it takes to compare two of them bit by bit."""

import torch

from sae.kernels.dense import DenseEngine
from sae.kernels.gradients import Weights
from sae.kernels.state import State
from sae.training.config import TrainConfig
from sae.training.data import Feed, TensorRows
from sae.training.trainer import Trainer

CPU = torch.device("cpu")
DEAD = {"l1": 20.0, "resample_at": (0.3, 0.5, 0.7), "resample_window": 0.1}
"""λ so high that features die, and resamplings that find them."""


def toy_config(**changes):
    few = {
        "recipe": "monosemanticity",
        "n_features": 24,
        "batch_size": 40,
        "n_steps": 60,
        "learning_rate": 1e-2,
        "log_every": 10,
        "resample_inputs": 80,
    }
    return TrainConfig(**{**few, **changes})


def toy_rows(n_rows=400, d_mlp=8, seed=0):
    """Normal rows about 0.5."""
    return torch.randn(n_rows, d_mlp, generator=torch.Generator().manual_seed(seed)) + 0.5


def toy_feed(config, rows=None):
    return Feed(TensorRows(toy_rows() if rows is None else rows), config.batch_size, config.data_seed)


def toy_trainer(config, rows=None, scale=1.0, observers=()):
    """A trainer and its feed."""
    feed = toy_feed(config, rows)
    return Trainer(config, feed.first(), scale, CPU, observers), feed


def drive(trainer, feed, n_steps=None):
    """Takes `n_steps` (or all that are left) as `fit` does, without its checkpoints."""
    until = trainer.config.n_steps if n_steps is None else trainer.n_done + n_steps
    while trainer.n_done < until:
        if trainer.resamples_now():
            trainer.resample(trainer.draw(feed.others))
        trainer.step(feed.next())
    return trainer


def in_float64(trainer):
    """The same trainer with its state and all of its arithmetic in float64, by the dense engine."""
    trainer.state = State.start(Weights(*(weight.double() for weight in trainer.state.weights)))
    trainer.engine = DenseEngine(trainer.state, trainer.recipe.objective, trainer.recipe.rule)
    trainer.scaled = lambda batch: batch.double() * trainer.scale
    return trainer


def copied(weights):
    return Weights(*(weight.clone() for weight in weights))


class Watcher:
    """An observer that calls `at(n)` after n steps in this process, and keeps nothing."""

    def __init__(self, at):
        self.at, self.n_steps = at, 0

    def record(self, step, values): ...

    def event(self, step, name, values): ...

    def advance(self, n_steps):
        self.n_steps += n_steps
        self.at(self.n_steps)

    def close(self): ...

    def state(self): ...

    def start(self, state): ...


def assert_same_bits(a, b):
    """Two results of `fit` are one: dictionary, records, firings."""
    for name, value in a.dictionary.state_dict().items():
        assert torch.equal(value, b.dictionary.state_dict()[name]), f"{name} differs"
    assert a.history == b.history
    assert torch.equal(a.firings, b.firings)
    assert torch.equal(a.firing_rows, b.firing_rows)
