"""`Trainer`: one optimisation of one dictionary. Is handed batches, tells observers, never sees a disk."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.chance import generator
from sae.dictionary.base import Dictionary
from sae.dictionary.relu import ReluDictionary
from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.errors import ConfigError, NumericsError
from sae.kernels.choice import make_engine
from sae.kernels.gradients import StepResult
from sae.kernels.state import State
from sae.shapes import Rows
from sae.training.config import TrainConfig
from sae.training.counts import Firings
from sae.training.initial import initial_weights
from sae.training.observers import Observer
from sae.training.precision import full_precision
from sae.training.records import measure
from sae.training.resampling import Draws, draw_inputs, resample
from sae.training.roofline import encoder_rows_per_second
from sae.training.sparsity import SparsityController

MOST_FEATURES_PER_NEURON = 1024
"""A/5, the paper's widest dictionary, has 256 features a neuron."""

MOST_PENALTY = 1e6
"""Times the squared error: where L1's part of the loss is more, λ is to blame for a gradient that is too large."""
MOST_L1 = 1e12
"""So is one above that, whatever else: the square of its gradient is beyond float32."""


class Trainer:
    """Trains one dictionary on batches handed to it one by one: `before_step`, then `step`, `n_steps` times.

    `first` is the first batch, unscaled; `scale` multiplies every batch (`input_scale`). All of its state is in `tensors()` and
    `numbers()`; randomness is derived from the seed and the step, so there is no generator to save.
    """

    @full_precision()
    def __init__(self, config: TrainConfig, first: Rows, scale: float, device: torch.device, observers: Sequence[Observer] = ()):
        d_mlp = first.shape[1]
        if config.n_features > MOST_FEATURES_PER_NEURON * d_mlp:
            raise ConfigError(
                f"'n_features' = {config.n_features} for {d_mlp} neurons: more than {MOST_FEATURES_PER_NEURON} a neuron "
                f"makes no sense (the paper's widest has 256); lower train.n_features"
            )
        assert config.n_steps is not None, "a config that is not `sized`"
        self.config, self.recipe, self.scale, self.device = config, config.settled(), scale, device
        self.n_steps, self.batch_size = config.n_steps, len(first)
        self.observers = observers
        self.schedule = self.recipe.schedule(self.n_steps)
        self.l1 = config.summed_l1(d_mlp)
        weights = initial_weights(self.recipe, config.n_features, self.scaled(first), self._chance(0))
        self.state = State.start(weights)
        self.engine = make_engine(self.state, self.recipe.objective, self.recipe.rule, config.engine, n_steps=self.n_steps)
        self.window, self.density = Firings(config.n_features, device), Firings(config.n_features, device)
        self.history: list[Tensor] = []
        """Rows on which each feature fired, one int64 [feature] a density window."""
        self.history_rows: list[int] = []
        self.controller: SparsityController | None = None
        if config.target_l0 is not None:
            start, end = (round(at * self.n_steps) for at in (self.recipe.l1_warmup, config.control_until))
            self.controller = SparsityController(config.target_l0, start, end)
        self.n_done = 0
        self.first_loss: float | None = None
        """Of the first step; None before it, and where a checkpoint of an older version is gone on with."""
        self._resampled_at: int | None = None  # so that a run that goes on from a refused batch does not do it twice
        self._finite = torch.tensor(True, device=device)
        self._clock: tuple[float, float, int] | None = None  # of the first step here and of the last record, steps done at that
        self._roofline: float | None = None

    @property
    def notices_late(self) -> bool:
        """Whether a refused step may be told of only some steps later: a GPU computes behind, and is asked at the records."""
        return self.device.type != "cpu"

    @property
    def sound(self) -> bool:
        """Whether no step was refused so far, told of or not."""
        return bool(self._finite)

    def scaled(self, batch: Rows) -> Rows:
        """A batch as the engine sees it: on the device, float32, multiplied by the scale."""
        return batch.to(self.device).float().mul(self.scale)

    def l1_at(self, step: int) -> float | Tensor:
        """λ at `step`: its ramp, and the controller's factor where L0 is aimed at (on a GPU a tensor there, not asked for)."""
        return self.l1 * self.schedule.l1(step) * (self.controller.factor if self.controller else 1.0)

    def resamples_now(self) -> bool:
        """Whether dead features are looked for before the next step."""
        return self.n_done in self.schedule.resample_steps and self.n_done != self._resampled_at

    def draw(self, others: Callable[[int], Iterable[Rows]]) -> Draws | None:
        """New inputs for the features that are dead now, drawn from the n batches of `others(n)`; None where none is. Changes
        nothing."""
        n_dead = int(self._dead().sum())
        if not n_dead:
            return None
        n_batches = -(-self.recipe.resample_inputs // self.batch_size)
        l1 = float(self.l1_at(self.n_done - 1)) if self.recipe.resample_loss == "total" else 0.0
        batches, chance = map(self.scaled, others(n_batches)), self._chance(self.n_done)
        return draw_inputs(self.state.weights, batches, n_dead, l1, self.recipe.objective, chance)

    @full_precision()
    def resample(self, drawn: Draws | None) -> None:
        """Give dead features the inputs that `draw` drew, and tell the observers."""
        if drawn is not None:
            resample(self.state, self._dead(), drawn, self.recipe)
            self.engine.refresh()
        self._resampled_at = self.n_done
        values = {"n_resampled": 0 if drawn is None else len(drawn), "n_rows_silent": self.window.n_rows}
        for observer in self.observers:
            observer.event(self.n_done, "resampling", values)

    def _dead(self) -> Tensor:
        return self.window.n_fired <= self.recipe.resample_below * self.window.n_rows

    @full_precision()
    def step(self, batch: Rows) -> None:
        """One step on `batch`; raises `NumericsError`, with nothing updated, where loss or gradients are not finite."""
        step = self.n_done
        if self._clock is None:
            self._clock = (time.monotonic(), time.monotonic(), step)
        if self.schedule.counters_start(step):
            self.window.clear()
        x = self.scaled(batch)
        learning_rate = self.recipe.learning_rate * self.schedule.learning_rate(step)
        result = self.engine.step(x, self.l1_at(step), learning_rate)
        self._finite &= result.finite
        recorded = (step + 1) % self.config.log_every == 0 or step + 1 == self.n_steps
        if (recorded or not self.notices_late) and not self._finite:
            self._refuse(result, x, step)
        for counts in (self.window, self.density):
            counts.add(result.n_fired, len(x))
        if self.controller is not None:
            n_active = result.n_fired.sum()
            on_cpu = n_active.device.type == "cpu"
            self.controller.observe(step, float(n_active) / len(x) if on_cpu else n_active.double() / len(x))
        self.n_done = step + 1
        if step == 0:
            self.first_loss = self._loss(result, step)
        values = self._values(result, x, step) if recorded else None
        if self.density.n_rows >= self.config.density_window * self.n_steps * self.batch_size:
            self.history.append(self.density.n_fired.clone())
            self.history_rows.append(self.density.n_rows)
            self.density.clear()
        # Last, when the step is done whole: who fails here, such as a log on a full disk, leaves a state to go on from.
        for observer in self.observers if values else ():
            observer.record(step + 1, values or {})
        self._tell_screens()
        for observer in self.observers:
            observer.advance(1)

    def _tell_screens(self) -> None:
        """Which screen the step takes is a fact of how a run ran, and of no bit of what it made."""
        choice = getattr(self.engine, "choice", None)
        while choice is not None and choice.news:
            values = choice.news.pop(0)
            for observer in self.observers:
                observer.event(self.n_done, "screen", values)

    @full_precision()
    def dictionary(self) -> Dictionary:
        """The dictionary for unscaled activations, its vectors of norm 1: with x' = s x, f' = s f and the rest follows; the
        norm of a dictionary vector goes into the encoder, since ReLU(c z) = c ReLU(z). Raises `NumericsError` for weights that
        diverged."""
        W_enc, b_enc, W_dec, b_dec = self.state.weights
        if not all(torch.isfinite(weight).all() for weight in self.state.weights):
            raise NumericsError("training diverged: the weights hold NaN or infinity; nothing is saved, lower learning_rate")
        if not self.recipe.unit_norm or self.recipe.renormalise == "before":
            norms = W_dec.norm(dim=1).clamp_min(1e-30)
            W_enc, b_enc, W_dec = W_enc * norms[:, None], b_enc * norms, W_dec / norms[:, None]
        kind = TiedBiasDictionary if self.recipe.tied_bias else ReluDictionary
        return kind(W_enc, b_enc / self.scale, W_dec, b_dec / self.scale)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that the next steps depend on, by name."""
        counts = {"window.n_fired": self.window.n_fired, "density.n_fired": self.density.n_fired}
        history = torch.stack(self.history) if self.history else torch.zeros(0, self.config.n_features, dtype=torch.int64)
        return {**self.state.tensors(), **counts, "history": history}

    def numbers(self) -> dict[str, Any]:
        """Everything else that they depend on, as JSON keeps it."""
        self.engine.settle()
        return {
            "n_done": self.n_done,
            "first_loss": self.first_loss,
            "resampled_at": self._resampled_at,
            "n_updates": self.state.n_updates,
            "scale": self.scale,
            "engine_density": getattr(self.engine, "density", None),
            "window_rows": self.window.n_rows,
            "density_rows": self.density.n_rows,
            "history_rows": self.history_rows,
            "controller": self.controller.numbers() if self.controller else None,
        }

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Take over what `tensors()` and `numbers()` of another trainer of the same config said."""
        self.state.load(tensors, numbers["n_updates"])
        self.window.load(tensors["window.n_fired"], numbers["window_rows"])
        self.density.load(tensors["density.n_fired"], numbers["density_rows"])
        self.history = list(tensors["history"].to(self.device))
        self.history_rows = list(numbers["history_rows"])
        self.n_done, self.scale, self._resampled_at = numbers["n_done"], numbers["scale"], numbers["resampled_at"]
        self.first_loss = numbers.get("first_loss")
        if self.controller is not None:
            self.controller.restore(numbers["controller"], self.device)
        if numbers["engine_density"] is not None:
            self.engine.density = numbers["engine_density"]  # type: ignore[attr-defined]
        self.engine.refresh()

    def _chance(self, step: int) -> np.random.Generator:
        """For what happens before `step` (0: the initial weights)."""
        return generator(self.config.seed, "training", step)

    def _refuse(self, result: StepResult, x: Rows, step: int) -> None:
        bad = int((~torch.isfinite(x)).any(1).sum())
        cause, penalty = "training diverged: lower learning_rate", float(self.l1_at(step)) * float(result.l1)
        if bad:
            cause = f"{bad} of its {len(x)} rows hold NaN or infinity: harvest again"
        elif penalty > MOST_PENALTY * float(result.squared_error) or self.l1 > MOST_L1:
            cause = f"λ is too large for float32: lower l1 (it reaches {self.l1:.3g}, on inputs scaled to a mean ‖x‖² of d_mlp)"
        raise NumericsError(f"loss is {self._loss(result, step)}, or a gradient too large, at step {step}; {cause}")

    def _loss(self, result: StepResult, step: int) -> float:
        return float(result.squared_error) + float(self.l1_at(step)) * float(result.l1)

    def _values(self, result: StepResult, x: Rows, step: int) -> dict[str, Any]:
        """The record of a step."""
        values = measure(result, x, float(self.l1_at(step)), self.density, self.config.ultralow)
        values["learning_rate"] = self.recipe.learning_rate * self.schedule.learning_rate(step)
        return values | self._speed(len(x))

    def _speed(self, n_rows: int) -> dict[str, float]:
        """Clocked values: rows a second since the last record, and as a fraction of the encoder product's own speed."""
        assert self._clock is not None, "no step was taken"
        started, last, n_done = self._clock
        now = time.monotonic()
        speed = (self.n_done - n_done) * n_rows / max(now - last, 1e-9)
        if self._roofline is None:
            self._roofline = encoder_rows_per_second(self.config.n_features, self.state.weights.W_enc.shape[1], self.device)
        self._clock = (started, time.monotonic(), self.n_done)
        return {"rows_per_second": speed, "fraction_of_roofline": speed / self._roofline, "seconds": now - started}
