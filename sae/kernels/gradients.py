"""What every way of computing the training step returns: the loss's parts, the gradients, which features fired.

The loss of *Towards Monosemanticity* ("Sparse Autoencoder Setup") in the convention that sums over d_mlp:

    L = (1/B) Σ_rows [ ‖x − x̂‖² + λ Σ_i f_i ],   x̂ = f W_dec + b_dec,   f = ReLU(W_enc (x − b_dec) + b_enc)

With g = (2/B)(x̂ − x) [row, d_mlp] and d = (g W_decᵀ + λ/B) where f > 0, else 0 [row, feature]:

    ∂W_dec = fᵀ g    ∂W_enc = dᵀ (x − b_dec)    ∂b_enc = Σ_rows d    ∂b_dec = Σ_rows g − ∂b_enc W_enc

The last line is OpenAI's sum-then-multiply order: one vector-matrix product instead of a matrix product for the pre-encoder bias.
"""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from sae.shapes import Directions, PerFeature, PerNeuron


class Weights(NamedTuple):
    """A tied-bias dictionary's parameters as bare tensors."""

    W_enc: Directions
    b_enc: PerFeature
    W_dec: Directions
    b_dec: PerNeuron


class StepResult(NamedTuple):
    """Gradients of the batch loss, and what the step measured on the way."""

    gradients: Weights
    squared_error: Float[Tensor, ""]
    """Σ_d (x − x̂)², mean over rows."""
    l1: Float[Tensor, ""]
    """Σ_i f_i, mean over rows (λ not applied)."""
    n_fired: Int[Tensor, " feature"]
    """Rows of the batch on which each feature is active; their sum over the number of rows is L0."""
