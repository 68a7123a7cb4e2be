"""What every way of computing the training step shares: the formulas, and what a step reports.

The loss, in the convention that sums over d_mlp (see `objective` for c and x̄):

    L = (1/B) Σ_rows [ ‖x − x̂‖² + λ Σ_i c_i f_i ],   x̂ = f W_dec + b_dec,   f = ReLU(W_enc x̄ + b_enc)

With g = (2/B)(x̂ − x) [row, d_mlp] and d = (g W_decᵀ + λ c/B) where f > 0, else 0 [row, feature]:

    ∂W_enc = dᵀ x̄    ∂b_enc = Σ_rows d    ∂W_dec = fᵀ g  (+ (λ/B) Σ_rows f_i · W_dec[i]/‖W_dec[i]‖ where c_i = ‖W_dec[i]‖)
    ∂b_dec = Σ_rows g  (− ∂b_enc W_enc where x̄ = x − b_dec)

The last line is OpenAI's sum-then-multiply order: one vector-matrix product instead of a matrix product for the pre-encoder bias.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.shapes import Directions, PerFeature, PerNeuron


class Weights(NamedTuple):
    """A one-layer dictionary's parameters (or anything of their shapes) as bare tensors."""

    W_enc: Directions
    b_enc: PerFeature
    W_dec: Directions
    b_dec: PerNeuron


class StepResult(NamedTuple):
    """What a step measured on its way, on the batch and with the weights before the update."""

    squared_error: Float[Tensor, ""]
    """Σ_d (x − x̂)², mean over rows."""
    l1: Float[Tensor, ""]
    """Σ_i c_i f_i, mean over rows (λ not applied)."""
    n_fired: Int[Tensor, " feature"]
    """Rows of the batch on which each feature is active, int64; their sum over the number of rows is L0."""
    gradient_norm: Float[Tensor, ""]
    """Euclidean norm of the gradient of all weights together, before clipping and projection."""
    finite: Bool[Tensor, ""]
    """Whether loss and gradients are; where they are not, the step updated nothing."""
