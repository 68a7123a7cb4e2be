"""What a training step minimises, and how it moves: the two things that recipes differ in, as data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Objective:
    """L = mean over rows of [ Σ_d (x − x̂)² + λ Σ_i c_i f_i ]; f = ReLU(W_enc x̄ + b_enc), x̂ = f W_dec + b_dec."""

    tied_bias: bool = True
    """The encoder sees x̄ = x − b_dec (*Towards Monosemanticity*, "Sparse Autoencoder Setup"); else x̄ = x (Circuits Updates,
    April 2024: no pre-encoder bias)."""
    weighted_l1: bool = False
    """c_i = ‖W_dec[i]‖ (Circuits Updates, April 2024); else c_i = 1."""


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """Adam, and what is done to the gradient before it and to the weights after it, in this order: clip, project, Adam,
    normalise (`renormalise="before"`: clip, normalise, project, Adam)."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    unit_norm: bool = True
    """Rows of W_dec stay on the unit sphere: the gradient's component along each row is removed, rows are normalised."""
    renormalise: Literal["after", "before"] = "after"
    """Whether rows are normalised after Adam's step, or before it (the forward pass then sees rows off 1 by a step's length)."""
    max_gradient_norm: float | None = None
    """The gradient of all weights together is scaled down to this Euclidean norm where it is longer."""
