"""Section `train` of params.yaml: a recipe by name, sizes and seeds, and whatever of the recipe is to be different."""

import dataclasses
import math
from dataclasses import dataclass, fields
from typing import Literal

from sae.errors import ConfigError
from sae.training.recipes import RECIPES, Recipe

BATCH_SIZE = 8192
FEWEST_STEPS = 1000
"""Where the run's length is left open."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One dictionary to train."""

    recipe: str = "default"
    """One of `sae.training.recipes.RECIPES`."""
    n_features: int = 4096
    n_steps: int | None = None
    """null: one pass over the rows, at least 1,000."""
    batch_size: int | None = None
    """Rows a step; null: 8,192, or all rows where there are fewer, or as many as an iterator's batches have."""
    seed: int = 0
    """Of the weights and of resampling's draws."""
    data_seed: int = 0
    """Of the order of rows. Dictionaries that differ in `seed` alone see the same batches."""
    target_l0: float | None = None
    """Find λ so that this many features are active on a row at the end, in place of `l1`; see `sae.training.sparsity`."""
    control_until: float = 0.8
    """Fraction of the run after which the λ found for `target_l0` is held."""
    engine: Literal["auto", "dense"] = "auto"
    """`auto`: the fastest that the device has. `dense`: plain torch, the reference for the others."""
    log_every: int = 50
    """Steps between two records."""
    ultralow: float = 1e-5
    """Features active on fewer of the rows of a density window than this, but on some, count as ultralow in the records."""
    density_window: float = 0.1
    """Fraction of the run over which dead and ultralow features are counted for the records."""

    # Of the recipe; null keeps what it says. Documented in `Recipe`.
    tied_bias: bool | None = None
    weighted_l1: bool | None = None
    l1_convention: Literal["sum", "mean"] | None = None
    l1: float | None = None
    l1_warmup: float | None = None
    normalise_inputs: bool | None = None
    start: Literal["kaiming", "transposed"] | None = None
    decoder_norm: float | None = None
    active_at_start: int | None = None
    centre: Literal["geometric_median", "zeros"] | None = None
    learning_rate: float | None = None
    """As given; null: the recipe's, raised for short runs (`Recipe.learning_rate_for`)."""
    most_learning_rate: float | None = None
    betas: tuple[float, float] | None = None
    warmup: float | None = None
    decay: float | None = None
    unit_norm: bool | None = None
    renormalise: Literal["after", "before"] | None = None
    max_gradient_norm: float | None = None
    resample_at: tuple[float, ...] | None = None
    resample_window: float | None = None
    resample_below: float | None = None
    resample_inputs: int | None = None
    resample_loss: Literal["total", "squared_error"] | None = None
    subtract_bias: bool | None = None
    rewarm: float | None = None

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise ConfigError(f"'recipe' = {self.recipe!r}: there are {', '.join(RECIPES)}")
        for name in ("n_features", "batch_size", "n_steps", "log_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"'{name}' = {value}: must be at least 1")
        for name in ("ultralow", "density_window", "control_until"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be a fraction, 0 to 1")
        if self.target_l0 is not None:
            if self.l1 is not None:
                raise ConfigError(f"'l1' = {self.l1} and 'target_l0' = {self.target_l0}: give one of them")
            if not 0 < self.target_l0 < self.n_features:
                raise ConfigError(f"'target_l0' = {self.target_l0}: must be above 0 and below n_features = {self.n_features}")
        recipe = self.settled()
        if self.target_l0 is not None and self.control_until <= recipe.l1_warmup:
            raise ConfigError(
                f"'control_until' = {self.control_until} is not after 'l1_warmup' = {recipe.l1_warmup}: nothing would steer "
                f"towards 'target_l0' = {self.target_l0}"
            )

    def sized(self, n_rows: int | None) -> "TrainConfig":
        """With a `batch_size` and `n_steps` for a source of `n_rows` rows (None where it does not say) in the place of null."""
        batch_size = min(BATCH_SIZE, n_rows or BATCH_SIZE) if self.batch_size is None else self.batch_size
        n_steps = max(FEWEST_STEPS, (n_rows or 0) // batch_size) if self.n_steps is None else self.n_steps
        return dataclasses.replace(self, batch_size=batch_size, n_steps=n_steps)

    def settled(self) -> Recipe:
        """The recipe with this config's changes, its learning rate the one for this run's length, once that is known."""
        base = RECIPES[self.recipe]
        ours = {field.name for field in fields(self)}
        changes = {field.name: getattr(self, field.name) for field in fields(Recipe) if field.name in ours - {"n_steps"}}
        changes = {name: value for name, value in changes.items() if value is not None}
        recipe = dataclasses.replace(base, **changes)
        if self.learning_rate is None and self.n_steps is not None:
            recipe = dataclasses.replace(recipe, learning_rate=recipe.learning_rate_for(self.n_steps))
        return recipe

    def summed_l1(self, d_mlp: int) -> float:
        """λ against the squared error summed over d_mlp, before any ramp or control."""
        recipe = self.settled()
        return recipe.l1 * (d_mlp if recipe.l1_convention == "mean" else 1)


def input_scale(mean_square_norm: float, d_mlp: int) -> float:
    """The factor that makes the mean of ‖x‖² equal d_mlp (Circuits Updates, April 2024, has the mean of ‖x‖ equal √d_mlp; Scaling
    Monosemanticity the mean square, as here). Raises `ConfigError` for rows that are all zero or not finite."""
    if not (math.isfinite(mean_square_norm) and mean_square_norm > 0):
        raise ConfigError(f"the activations' mean square norm is {mean_square_norm}: nothing to learn from; check the rows")
    scale = math.sqrt(d_mlp / mean_square_norm)
    if not 2.0**-126 <= scale < 2.0**126:
        raise ConfigError(f"the activations' mean square norm is {mean_square_norm}: beyond float32; give the rows another unit")
    return scale
