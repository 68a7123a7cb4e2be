"""The forward pass of transformer_lens's `NativeModel`, over its own parameters, fast enough to train on a CPU.

transformer_lens's own pass is made for looking inside: its attention is eager and every step goes through hooks. This one
computes the same function (a test holds it to that) with fused attention, and takes the loss without ever holding
[token, vocab] logits of more than a slice. In bfloat16 the matrix products run in that type (1.8 to 4.5 times as fast on
a CPU with avx512_bf16); the residual stream, norms, softmax and losses stay float32. Measured on one core of the machine of
development, batches of 16 contexts of 128, d_model 128, d_mlp 512, vocabulary 4096, forward and backward, tokens a CPU second:
transformer_lens's pass 11,000, this in float32 14,000, in bfloat16 23,000.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae.shapes import Tokens
from sae.source.transformer_config import Precision

Stream = Float[Tensor, "context position d_model"]
TOKENS_PER_SLICE = 256
"""Of the loss: a slice of logits [256, vocab 4096] is 4 MB and stays in the cache; 128 and 512 are as fast, 1024 is slower."""
SMALLEST = 1e-37
"""Probability at which the loss stops growing, 85 nats: float32 softmax underflows near it."""


class Shape(NamedTuple):
    """What of a NativeModel's config its weights do not tell."""

    n_layers: int
    n_heads: int
    activation: str
    eps: float


class FastForward:
    """Gives the loss of a NativeModel with LayerNorm and learned positions, with gradients to `weights`.

    `weights` are its parameters by name (`layers.0.mlp.fc_in.weight`); `dtype` is that of matrix products.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], shape: Shape, dtype: torch.dtype):
        self.weights, self.shape, self.dtype = weights, shape, dtype

    def stream(self, tokens: Tokens) -> Stream:
        """The residual stream after the final norm."""
        x = F.embedding(tokens, self.weights["tok_embed.weight"]) + self.weights["pos.weight"][: tokens.shape[1]]
        for layer in range(self.shape.n_layers):
            x = x + self._attention(self._norm(x, f"layers.{layer}.ln1"), f"layers.{layer}.attn")
            x = x + self._mlp(self._norm(x, f"layers.{layer}.ln2"), f"layers.{layer}.mlp")
        return self._norm(x, "ln_out")

    def summed_loss(self, tokens: Tokens) -> Float[Tensor, ""]:
        """Cross-entropy, nats, summed over the predicted tokens of the batch."""
        x = self.stream(tokens)[:, :-1].flatten(0, 1).to(self.dtype)
        loss: Tensor = _LinearCrossEntropy.apply(x, self.weights["head.weight"], tokens[:, 1:].flatten())
        return loss

    def _norm(self, x: Tensor, name: str) -> Tensor:
        gain = self.weights[f"{name}.weight"]
        return F.layer_norm(x, gain.shape, gain, self.weights[f"{name}.bias"], self.shape.eps)

    def _linear(self, x: Tensor, *names: str) -> Tensor:
        """The outputs of several linear layers with the same input, side by side."""
        weight = torch.cat([self.weights[f"{name}.weight"] for name in names]).to(self.dtype)
        bias = torch.cat([self.weights[f"{name}.bias"] for name in names]).to(self.dtype)
        return F.linear(x.to(self.dtype), weight, bias)

    def _attention(self, x: Stream, name: str) -> Stream:
        mixed = self._linear(x, f"{name}.q", f"{name}.k", f"{name}.v").to(x.dtype)
        q, k, v = (part.unflatten(-1, (self.shape.n_heads, -1)).transpose(1, 2) for part in mixed.chunk(3, dim=-1))
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self._linear(heads.transpose(1, 2).flatten(2), f"{name}.o")

    def _mlp(self, x: Stream, name: str) -> Stream:
        hidden = self._linear(x, f"{name}.fc_in")
        if self.shape.activation == "relu":
            hidden = F.relu(hidden)
        elif self.shape.activation == "gelu":
            hidden = F.gelu(hidden)
        else:
            hidden = hidden.to(x.dtype)
            hidden = hidden * F.softmax(hidden, dim=-1)
            if self.shape.activation == "solu_ln":
                hidden = self._norm(hidden, f"{name}.ln")
        return self._linear(hidden, f"{name}.fc_out")


class _LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of `x @ weight.T` against `targets`, summed: slice by slice, gradients taken on the way forward.

    The products are in the type of `x`, the gradient of `weight` (a parameter, float32) is gathered in that of `weight`.
    """

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "token d_model"], weight: Tensor, targets: Int[Tensor, " token"]) -> Tensor:
        x_gradient, weight_gradient = torch.empty_like(x), torch.zeros_like(weight)
        loss, narrow = torch.zeros((), dtype=weight.dtype, device=x.device), weight.to(x.dtype)
        for start in range(0, len(x), TOKENS_PER_SLICE):
            part = x[start : start + TOKENS_PER_SLICE]
            target = targets[start : start + TOKENS_PER_SLICE, None]
            probability = torch.softmax((part @ narrow.T).to(loss.dtype), dim=-1)  # softmax(dtype=...): 30 times slower on CPUs
            of_target = probability.gather(1, target)
            loss = loss - of_target.clamp_min(SMALLEST).log().sum()
            gradient = probability.scatter_(1, target, of_target - 1).to(x.dtype)
            x_gradient[start : start + TOKENS_PER_SLICE] = gradient @ narrow
            weight_gradient += gradient.T @ part
        ctx.save_for_backward(x_gradient, weight_gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x_gradient, weight_gradient = ctx.saved_tensors
        scale = gradients[0]
        return x_gradient * scale.to(x_gradient.dtype), weight_gradient * scale, None


def resolve(precision: Precision, device: torch.device) -> torch.dtype:
    """The type of matrix products: `auto` is bfloat16 where the processor multiplies matrices in it, else float32."""
    if precision == "auto":
        if device.type == "cuda":
            precision = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        else:
            can = torch.cpu.get_capabilities()
            precision = "bfloat16" if can.get("avx512_bf16") or can.get("amx_bf16") else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
