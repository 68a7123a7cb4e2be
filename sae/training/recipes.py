"""Recipes as data: all in which one way of training dictionaries differs from another.

A recipe's fractions are of the run's steps, so that a short run keeps the shape of a long one. `TrainConfig` names a recipe
and may change any of its fields. `docs/training.md` goes through both papers sentence by sentence.
"""

import math
from dataclasses import dataclass
from typing import Literal

from sae.errors import ConfigError
from sae.kernels.objective import Objective, UpdateRule
from sae.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything but sizes and seeds. The defaults are *Towards Monosemanticity*'s."""

    tied_bias: bool = True
    """The encoder sees x − b_dec ("pre-encoder bias")."""
    weighted_l1: bool = False
    """L1 counts f_i ‖W_dec[i]‖ in place of f_i."""
    l1_convention: Literal["sum", "mean"] = "sum"
    """Whether λ weighs L1 against the squared error summed over d_mlp, or its mean over d_mlp (λ then acts as d_mlp · λ)."""
    l1: float = 2.05
    """λ, on inputs scaled to a mean ‖x‖² of d_mlp. The paper's 0.004 weighs a mean over 512: 2.05 in `sum`."""
    l1_warmup: float = 0.0
    """Fraction of the run in which λ rises from 0."""
    normalise_inputs: bool = True
    """Scale inputs to a mean ‖x‖² of d_mlp; the scale is folded back into the weights. The paper does not; its λ then means
    something else on every transformer."""

    start: Literal["kaiming", "transposed"] = "kaiming"
    """`kaiming`: W_enc, W_dec and b_enc as PyTorch starts a linear layer. `transposed`: W_dec in random directions, W_enc =
    W_dec, b_enc = 0."""
    decoder_norm: float = 1.0
    """‖W_dec[i]‖ at the start."""
    active_at_start: int | None = None
    """Features active on a row at the start, at most: where half of all are more, b_enc lets each fire on as many rows as gives
    this many. None: half of all, as the papers' starts have it. See docs/training.md, "Wide dictionaries"."""
    centre: Literal["geometric_median", "zeros"] = "geometric_median"
    """b_dec at the start: the geometric median of the first batch, or zeros."""

    learning_rate: float = 1e-4
    """Adam's, at its highest, for a run of `n_steps`; see `learning_rate_for`. The paper does not give its own."""
    n_steps: int = 1_000_000
    """Steps that the paper trains for."""
    most_learning_rate: float = 2e-3
    """Where the rule for short runs stops raising the learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.0
    """Fraction of the run in which the learning rate rises from 0."""
    decay: float = 0.0
    """Fraction of the run, at its end, in which the learning rate falls linearly to 0."""
    unit_norm: bool = True
    """Dictionary vectors stay at norm 1: the gradient's component along them is removed, and they are normalised."""
    renormalise: Literal["after", "before"] = "after"
    """Whether they are normalised after Adam's step or before it."""
    max_gradient_norm: float | None = None
    """Clip the gradient of all weights together to this norm; None or 0 does not."""

    resample_at: tuple[float, ...] = (0.025, 0.05, 0.075, 0.1)
    """When dead features are resampled (the paper: steps 25k, 50k, 75k, 100k of 1M)."""
    resample_window: float = 0.0125
    """The part of the run before a resampling over which firing is counted (12,500 steps of 1M)."""
    resample_below: float = 0.0
    """Features active on at most this fraction of the window's rows are dead."""
    resample_inputs: int = 819_200
    """Rows on which losses are computed to draw from."""
    resample_loss: Literal["total", "squared_error"] = "total"
    """Which loss is squared for the probability of a draw."""
    subtract_bias: bool = True
    """Draw x − b_dec, which is what the encoder sees, rather than x."""
    rewarm: float = 0.0
    """Fraction of the run in which the learning rate rises again, from a tenth, after each resampling."""

    def __post_init__(self) -> None:
        for name in ("l1", "learning_rate", "decoder_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be a finite number, at least 0")
        for name in ("learning_rate", "decoder_norm", "n_steps", "resample_inputs", "active_at_start"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be above 0")
        if not self.most_learning_rate > 0:
            raise ConfigError(f"'most_learning_rate' = {self.most_learning_rate}: must be a number above 0")
        if self.max_gradient_norm is not None and not 0 <= self.max_gradient_norm < math.inf:
            raise ConfigError(f"'max_gradient_norm' = {self.max_gradient_norm}: must be a finite number; 0 switches clipping off")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"'betas' = {list(self.betas)}: both must be at least 0 and below 1")
        if not 0 <= self.resample_below <= 1:
            raise ConfigError(f"'resample_below' = {self.resample_below}: must be a fraction, 0 to 1")
        self.schedule(1000)

    @property
    def objective(self) -> Objective:
        return Objective(tied_bias=self.tied_bias, weighted_l1=self.weighted_l1)

    @property
    def rule(self) -> UpdateRule:
        return UpdateRule(
            betas=self.betas,
            unit_norm=self.unit_norm,
            renormalise=self.renormalise,
            max_gradient_norm=self.max_gradient_norm or None,
        )

    def schedule(self, n_steps: int) -> Schedule:
        names = ("warmup", "decay", "l1_warmup", "resample_at", "resample_window", "rewarm")
        return Schedule(n_steps=n_steps, **{name: getattr(self, name) for name in names})

    def learning_rate_for(self, n_steps: int) -> float:
        """The recipe's learning rate for a run of `n_steps`: its own at its own length, and raised as √(length / n_steps) for a
        shorter run, up to `most_learning_rate`: what a short run cannot have in steps it needs in their size."""
        raised = self.learning_rate * math.sqrt(max(1.0, self.n_steps / n_steps))
        return max(self.learning_rate, min(raised, self.most_learning_rate))


RECIPES = {
    "default": Recipe(
        l1=3.0,
        l1_warmup=0.15,
        learning_rate=3e-4,
        most_learning_rate=0.012,
        warmup=0.02,
        decay=0.2,
        max_gradient_norm=1.0,
        resample_at=(0.3, 0.4, 0.5, 0.6),
        resample_window=0.1,
        resample_inputs=32_768,
        rewarm=0.02,
    ),
    "monosemanticity": Recipe(),
    "april2024": Recipe(
        tied_bias=False,
        weighted_l1=True,
        l1=5.0,
        l1_warmup=0.05,
        start="transposed",
        decoder_norm=0.1,
        centre="zeros",
        learning_rate=5e-5,
        n_steps=200_000,
        decay=0.2,
        unit_norm=False,
        max_gradient_norm=1.0,
        resample_at=(),
    ),
}
"""`default`: the 2023 paper's dictionary and loss, with what measured better in runs of some thousand steps (docs/log.md,
2026-11-21): λ's ramp, which keeps features from dying, the learning rate's decay, and clipping, which keeps the large
gradients of the first steps out of Adam's second moments. `monosemanticity`: Bricken et al. 2023. `april2024`: Circuits
Updates, April 2024, "Update on how we train SAEs"."""
