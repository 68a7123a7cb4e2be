"""`Trainer`: one optimisation of one dictionary. Eats batches, tells observers, never sees a disk."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from sae.dictionary.relu import TiedBiasDictionary
from sae.errors import ConfigError, NumericsError
from sae.kernels.choice import choose_step
from sae.kernels.gradients import StepResult
from sae.shapes import Rows
from sae.training.initial import geometric_median, initial_weights
from sae.training.observers import Observer
from sae.training.optimizer import ConstrainedAdam
from sae.training.resampling import draw_inputs, resample
from sae.training.schedule import Schedule

MOST_FEATURES_PER_NEURON = 1024
"""A/5, the paper's widest dictionary, has 256 features a neuron."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Section `train`: the recipe of *Towards Monosemanticity*. Inputs are scaled so that the mean of ‖x‖² is d_mlp, and
    the scale is folded back into the weights at the end, so these numbers do well on activations of any size."""

    n_features: int = 4096
    batch_size: int = 8192
    """Rows a step."""
    n_steps: int = 1_000_000
    l1: float = 2.0
    """λ in L = mean over rows of [ Σ_d (x − x̂)² + λ Σ_i f_i ], on scaled inputs. `docs/method.md` converts other conventions:
    the paper's 0.004 weighs a *mean* over d_mlp = 512 and is 2.05 here, on unscaled inputs."""
    learning_rate: float = 3e-4
    """Adam's, at its highest. The paper does not give its own."""
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.0
    """Fraction of the run in which the learning rate rises."""
    decay: float = 0.0
    """Fraction of the run, at its end, in which it falls to 0. Not in the paper; Circuits Updates, February 2024, has 0.2."""
    l1_warmup: float = 0.0
    """Fraction of the run in which λ rises. Not in the paper; Circuits Updates, April 2024, has 0.05."""
    resample_at: tuple[float, ...] = (0.025, 0.05, 0.075, 0.1)
    """When dead features are resampled, in fractions of the run (the paper: steps 25k, 50k, 75k, 100k of 1M)."""
    resample_window: float = 0.0125
    """A feature that never fired in this fraction of the run before a resampling is dead (12,500 steps of 1M)."""
    resample_inputs: int = 819_200
    """Rows on which losses are computed to draw from."""
    subtract_bias: bool = True
    """Draw x − b_dec, which is what the encoder sees, rather than x."""
    rewarm: float = 0.0
    """Fraction of the run in which the learning rate rises again after each resampling. Not in the paper."""
    seed: int = 0
    log_every: int = 50
    """Steps between two records."""
    ultralow: float = 1e-5
    """Features that fire on fewer of the rows since the last record of densities count as ultralow."""
    density_window: float = 0.1
    """Fraction of the run over which dead and ultralow features are counted for the records."""

    def __post_init__(self) -> None:
        for name in ("n_features", "batch_size", "n_steps", "resample_inputs", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be at least 1")
        if not 0 <= self.l1 < math.inf:
            raise ConfigError(f"'l1' = {self.l1}: must be a finite number, at least 0")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"'learning_rate' = {self.learning_rate}: must be a finite number above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"'betas' = {list(self.betas)}: both must be at least 0 and below 1")
        for name in ("ultralow", "density_window"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be a fraction, 0 to 1")
        self.schedule()

    def schedule(self) -> Schedule:
        names = ("n_steps", "warmup", "decay", "l1_warmup", "resample_at", "resample_window", "rewarm")
        return Schedule(**{name: getattr(self, name) for name in names})


@dataclass
class FiringCounts:
    """On how many rows each feature fired, out of how many."""

    n_fired: Tensor
    n_rows: int = 0

    def add(self, result: StepResult, n_rows: int) -> None:
        self.n_fired += result.n_fired
        self.n_rows += n_rows

    def clear(self) -> None:
        self.n_fired.zero_()
        self.n_rows = 0


@dataclass
class Trainer:
    """`Trainer(config, batches, scale=..., device=...).train()` gives the dictionary.

    `batches` yields float32 [batch_size, d_mlp] without end; `scale` multiplies them (see `input_scale`).
    """

    config: TrainConfig
    batches: Iterator[Rows]
    scale: float = 1.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    observers: Sequence[Observer] = ()

    def __post_init__(self) -> None:
        config = self.config
        first = next(self.batches)
        if config.n_features > MOST_FEATURES_PER_NEURON * first.shape[1]:
            raise ConfigError(
                f"'n_features' = {config.n_features} for {first.shape[1]} neurons: more than {MOST_FEATURES_PER_NEURON} a neuron "
                f"makes no sense (the paper's widest has 256); lower train.n_features"
            )
        self.schedule = config.schedule()
        self.generator = torch.Generator().manual_seed(config.seed)
        self._input = (self._scaled(batch) for batch in chain([first], self.batches))
        centre = geometric_median(self._scaled(first))
        self.weights = initial_weights(config.n_features, centre, self.generator)
        self.optimizer = ConstrainedAdam(self.weights, config.betas)
        zeros = torch.zeros(config.n_features, dtype=torch.int64, device=self.device)
        self.resample_counts, self.density_counts = FiringCounts(zeros.clone()), FiringCounts(zeros.clone())
        self.active_fraction = 1.0

    def train(self) -> TiedBiasDictionary:
        """All steps; raises `NumericsError` before an update that a NaN or infinite loss would poison."""
        started = self._last_record = time.monotonic()
        self._rows_since = 0
        for step in range(self.config.n_steps):
            if self.schedule.counters_start(step):
                self.resample_counts.clear()
            result = self._step(step)
            done = step + 1
            if done in self.schedule.resample_steps:
                self._resample(done)
            if done % self.config.log_every == 0 or done == self.config.n_steps:
                self._record(done, result, started)
            for observer in self.observers:
                observer.advance(1)
        if not all(torch.isfinite(weight).all() for weight in self.weights):
            raise NumericsError("training diverged: the weights hold NaN or infinity; nothing is saved, lower learning_rate")
        return self.dictionary()

    def dictionary(self) -> TiedBiasDictionary:
        """The dictionary for unscaled activations: with x' = s x, f' = s f and everything else follows."""
        W_enc, b_enc, W_dec, b_dec = self.weights
        return TiedBiasDictionary(W_enc, b_enc / self.scale, W_dec, b_dec / self.scale)

    def _scaled(self, batch: Rows) -> Rows:
        return batch.to(self.device).mul(self.scale)

    def _step(self, step: int) -> StepResult:
        x = self._last_batch = next(self._input)
        compute = choose_step(self.device, self.active_fraction)
        result = compute(self.weights, x, self.config.l1 * self.schedule.l1(step))
        if self.device.type == "cpu" or step % self.config.log_every == 0:
            self._refuse_nonfinite(result, x, step)
        self.optimizer.step(result.gradients, self.config.learning_rate * self.schedule.learning_rate(step))
        for counts in (self.resample_counts, self.density_counts):
            counts.add(result, len(x))
        if self.device.type == "cpu":
            self.active_fraction = float(result.n_fired.sum()) / result.n_fired.numel() / len(x)
        self._rows_since += len(x)
        return result

    def _refuse_nonfinite(self, result: StepResult, x: Rows, step: int) -> None:
        loss = float(result.squared_error + result.l1)
        if math.isfinite(loss):
            return
        bad = int((~torch.isfinite(x)).any(1).sum())
        cause = (
            f"{bad} of its {len(x)} rows hold NaN or infinity: harvest again" if bad else "training diverged: lower learning_rate"
        )
        raise NumericsError(f"loss is {loss} at step {step}; {cause}")

    def _resample(self, step: int) -> None:
        dead = self.resample_counts.n_fired == 0
        n_dead = int(dead.sum())
        if n_dead:
            n_batches = -(-self.config.resample_inputs // self.config.batch_size)
            l1 = self.config.l1 * self.schedule.l1(step)
            inputs = draw_inputs(self.weights, islice(self._input, n_batches), n_dead, l1, self.generator)
            resample(self.weights, self.optimizer, dead, inputs, subtract_bias=self.config.subtract_bias)
        values = {"n_resampled": n_dead, "n_rows_silent": self.resample_counts.n_rows}
        for observer in self.observers:
            observer.event(step, "resampling", values)

    def _record(self, step: int, result: StepResult, started: float) -> None:
        values = self._measure(step, result)
        now = time.monotonic()
        values["rows_per_second"] = self._rows_since / max(now - self._last_record, 1e-9)
        values["seconds"] = now - started
        self._last_record, self._rows_since = now, 0
        for observer in self.observers:
            observer.record(step, values)

    def _measure(self, step: int, result: StepResult) -> dict[str, Any]:
        """The batch's loss and the dictionary's state; densities over the rows since the density window began."""
        x, window = self._last_batch, self.density_counts
        variance = float((x - x.mean(0)).square().sum(1).mean())
        l1 = self.config.l1 * self.schedule.l1(step - 1)
        density = window.n_fired.double() / max(window.n_rows, 1)
        log_density = density.clamp_min(1e-9).log10().cpu()
        counts, edges = torch.histogram(log_density.float(), bins=45, range=(-9.0, 0.0))
        values = {
            "loss": float(result.squared_error + l1 * result.l1),
            "squared_error": float(result.squared_error),
            "l1": float(result.l1),
            "l0": float(result.n_fired.sum()) / len(x),
            "fvu": float(result.squared_error) / max(variance, 1e-30),
            "n_dead": int((window.n_fired == 0).sum()),
            "n_ultralow": int(((density < self.config.ultralow) & (window.n_fired > 0)).sum()),
            "n_density_rows": window.n_rows,
            "learning_rate": self.config.learning_rate * self.schedule.learning_rate(step - 1),
            "lambda": l1,
            "log10_density": (counts.numpy(), edges.numpy()),
        }
        if window.n_rows >= self.config.density_window * self.config.n_steps * self.config.batch_size:
            window.clear()
        return values


def input_scale(mean_square_norm: float, d_mlp: int) -> float:
    """The factor that makes the mean of ‖x‖² equal d_mlp (Circuits Updates, April 2024, has the mean of ‖x‖ equal √d_mlp)."""
    if not (math.isfinite(mean_square_norm) and mean_square_norm > 0):
        raise NumericsError(f"the activations' mean square norm is {mean_square_norm}: nothing to learn from; harvest again")
    return math.sqrt(d_mlp / mean_square_norm)
