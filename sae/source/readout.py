"""`Readout`: from a site to the logits where nothing lies between but the final norm, as a formula over weights.

Then what a change at one position does is known without a forward pass: it touches the logits of that position alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae.shapes import Activations, Logits, Tokens

Norm = Literal["layer", "rms", "none"]
Residuals = Float[Tensor, "*row d_model"]
TOLERANCE = 1e-4
"""Largest difference of the formula's logits from those of a forward pass, as a fraction of their norm."""
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

    def agrees(self, tokens: Tokens, change: Activations, logits: Logits) -> bool:
        """Whether it gives the `logits` of a forward pass of `tokens` with `change` added at the site."""
        found = self.logits(self.residual(tokens) + change @ self.W_out)
        return found.shape == logits.shape and float((found - logits).norm()) <= TOLERANCE * float(logits.norm())


def has_final_norm(bridge: Any) -> bool:
    """Whether transformer_lens's `bridge` norms its residual stream before the unembedding."""
    return "ln_final.hook_scale" in bridge.hook_dict


@torch.no_grad()
def readout_of(bridge: Any, W_out: Tensor, residual: Callable[[Tokens], Tensor]) -> Readout:
    """The final norm and the unembedding of a `bridge`, as a formula; whether it holds is another question (`agrees`)."""
    W_U, bias = bridge.W_U.float(), getattr(bridge, "b_U", None)
    bias = W_U.new_zeros(W_U.shape[1]) if bias is None else bias.float()
    if not has_final_norm(bridge):
        return Readout(residual=residual, W_out=W_out, W_U=W_U, bias=bias, norm="none", eps=0.0)
    norm = bridge.ln_final
    gain, shift = (getattr(norm.original_component, name, None) for name in ("weight", "bias"))
    if shift is not None:
        bias = bias + shift.float() @ W_U
    if gain is not None:
        W_U = (gain.float() + 1.0 if norm.uses_weight_offset else gain.float())[:, None] * W_U
    kind: Norm = "rms" if norm.uses_rms_norm else "layer"
    return Readout(residual=residual, W_out=W_out, W_U=W_U, bias=bias, norm=kind, eps=float(bridge.cfg.eps))
