"""`Readout`: from a site to the logits where nothing lies between but the final norm, as a formula over weights.

Then what a change at one position does is known without a forward pass: it touches the logits of that position alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae.shapes import Tokens

Norm = Literal["layer", "rms", "none"]
Residuals = Float[Tensor, "*row d_model"]
RowLogits = Float[Tensor, "*row vocab"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Readout:
    """logits = norm(residual) · W_U + bias, with residual = what no change at the site touches + x · W_out."""

    residual: Callable[[Tokens], Tensor]
    """The final residual stream [context, position, d_model] of a clean forward pass, float32."""
    W_out: Float[Tensor, "d_mlp d_model"]
    """What the activations at the site write to it."""
    W_U: Float[Tensor, "d_model vocab"]
    """Of the unembedding, the norm's gain folded in."""
    bias: Float[Tensor, " vocab"]
    """The unembedding's, and the norm's through the unembedding."""
    norm: Norm
    eps: float
    """Within the root."""

    def centre(self, residual: Residuals) -> Residuals:
        """Without the mean over d_model, where the norm takes it away; linear, so directions can be centred alike."""
        return residual - residual.mean(-1, keepdim=True) if self.norm == "layer" else residual

    def inverse_scale(self, centred: Residuals) -> Float[Tensor, "*row 1"]:
        """1/σ of centred residuals."""
        if self.norm == "none":
            return torch.ones_like(centred[..., :1])
        return (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt()

    def logits(self, residual: Residuals) -> RowLogits:
        centred = self.centre(residual)
        return centred * self.inverse_scale(centred) @ self.W_U + self.bias
