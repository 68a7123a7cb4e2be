"""The forward pass of transformer_lens's `NativeModel`, over its own parameters, fast enough to train on a CPU.

transformer_lens's own pass is made for looking inside: its attention is eager and every step goes through hooks. This one
computes the same function (a test holds it to that) with fused attention, and takes the loss without ever holding
[token, vocab] logits of more than a slice. In bfloat16 the matrix products run in that type (1.8 to 4.5 times as fast on
a CPU with avx512_bf16); the residual stream, norms, softmax and losses stay float32. Measured on one core of the machine of
development, batches of 16 contexts of 128, d_model 128, d_mlp 512, vocabulary 4096, forward and backward, tokens a CPU second:
transformer_lens's pass 11,000, this in float32 14,000, in bfloat16 23,000.

The harvest takes the same pass up to its site (`at`, by way of `fast_site.py`), and computes nothing after it, nor, in the
site's own layer, anything but keys and values at positions that it does not take. Those of the first layer it looks up, as they
follow from token and position (`KeyTable`).
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae.shapes import Positions, Tokens
from sae.source.site import at_positions
from sae.source.transformer_config import Precision

Stream = Float[Tensor, "context position d_model"]
Taken = Float[Tensor, "context taken d_model"]
Keys = Float[Tensor, "context position two_d_model"]
"""And values, side by side."""
Place = Literal["resid_pre", "attn_out", "resid_mid", "pre", "pre_norm", "post", "mlp_out", "resid_post"]
"""Where in a layer, in the order in which they are computed; `pre_norm` is there for `solu_ln` alone."""


def _solu(x: Tensor) -> Tensor:
    return x * F.softmax(x, dim=-1)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "solu": _solu,
    "solu_ln": _solu,
}
"""By transformer_lens's names; after that of `solu_ln` comes a LayerNorm."""
TOKENS_PER_SLICE = 256
"""Of the loss: a slice of logits [256, vocab 4096] is 4 MB and stays in the cache; 128 and 512 are as fast, 1024 is slower."""
SMALLEST = 1e-37
"""Probability at which the loss stops growing, 85 nats: float32 softmax underflows near it."""


class KeyTable(NamedTuple):
    """Keys and values of the first layer, side by side, before its LayerNorm divides: what enters it is E[token] + P[position],
    so that all of them are (token[t] + position[p]) / σ(t, p) + bias, and no product is needed."""

    token: Float[Tensor, "vocab two_d_model"]
    position: Float[Tensor, "n_ctx two_d_model"]
    bias: Float[Tensor, " two_d_model"]


class Shape(NamedTuple):
    """What of a NativeModel's config its weights do not tell."""

    n_layers: int
    n_heads: int
    activation: str
    eps: float


class FastForward:
    """The pass of a NativeModel with learned positions and LayerNorm (that with no gains is one whose `weights` lack them).

    `weights` are its parameters by name (`layers.0.mlp.fc_in.weight`); `dtype` is that of matrix products. Nothing is kept
    between calls, so that weights may change in any way: joining those of q, k and v anew for every batch is at most 3 % of the
    pass (gelu-1l's width, 1,024 tokens), and cannot be seen at the default pipeline's.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], shape: Shape, dtype: torch.dtype):
        self.weights, self.shape, self.dtype = weights, shape, dtype

    def stream(self, tokens: Tokens) -> Stream:
        """The residual stream after the final norm."""
        return self._norm(self._through(tokens, self.shape.n_layers), "ln_out")

    def at(
        self, tokens: Tokens, layer: int, place: Place, positions: Positions | None = None
    ) -> Float[Tensor, "context taken width"]:
        """What the layer `layer` computes at `place`, at `positions` (all where None), and nothing beyond it.

        Raises `KeyError` where it has no such place, `IndexError` for a position that the contexts do not have."""
        return _first(self._layer(self._through(tokens, layer), layer, positions), place)

    def key_table(self) -> KeyTable:
        """Of the first layer, of the weights as they are. It takes the time of a pass over as many tokens as there are in the
        vocabulary, and 8 d_model bytes for each."""
        weight, bias = self._weights("layers.0.attn.k", "layers.0.attn.v")
        gain, shift = self.weights.get("layers.0.ln1.weight"), self.weights.get("layers.0.ln1.bias")
        if shift is not None:
            bias = bias + weight @ shift.to(weight.dtype)
        if gain is not None:
            weight = weight * gain.to(weight.dtype)
        centred = weight - weight.mean(1, keepdim=True)  # takes the mean from what it is multiplied with
        token, position = (F.linear(self.weights[name].to(self.dtype), centred) for name in ("tok_embed.weight", "pos.weight"))
        return KeyTable(token, position, bias)

    def at_by_table(
        self, tokens: Tokens, place: Place, positions: Positions, table: KeyTable
    ) -> Float[Tensor, "context taken width"]:
        """`at` for the first layer, with `table` of these very weights."""
        x = self._through(tokens, 0)
        _, _, inverse_scale = torch.native_layer_norm(x, x.shape[-1:], None, None, self.shape.eps)
        mixed = F.embedding(tokens, table.token).add_(table.position[: tokens.shape[1]])
        keys = torch.addcmul(table.bias, mixed, inverse_scale.to(mixed.dtype), out=mixed)
        return _first(self._layer(x, 0, positions, keys), place)

    def summed_loss(self, tokens: Tokens, counted: Bool[Tensor, "context predicted"] | None = None) -> Float[Tensor, ""]:
        """Cross-entropy, nats, summed over the predicted tokens of the batch, or those that are `counted`."""
        x, target = self.stream(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        if counted is not None:
            x, target = x[counted.flatten()], target[counted.flatten()]
        loss: Tensor = _LinearCrossEntropy.apply(x.to(self.dtype), self.weights["head.weight"], target)
        return loss

    def _through(self, tokens: Tokens, n_layers: int) -> Stream:
        """The residual stream after the first `n_layers`."""
        x = F.embedding(tokens, self.weights["tok_embed.weight"]) + self.weights["pos.weight"][: tokens.shape[1]]
        for layer in range(n_layers):
            for _, after in self._layer(x, layer):
                x = after
        return x

    def _layer(
        self, x: Stream, layer: int, positions: Positions | None = None, keys: Keys | None = None
    ) -> Iterator[tuple[Place, Tensor]]:
        """Every place in turn, and what is there at `positions`. To ask for the next may overwrite the last. `keys`: keys and
        values side by side, where they are known."""
        name, everywhere = f"layers.{layer}", x
        if positions is not None:
            x = at_positions(x, positions)
        yield "resid_pre", x
        normed = self._norm(everywhere if keys is None else x, f"{name}.ln1")
        attended = self._attention(normed, f"{name}.attn", positions, keys)
        yield "attn_out", attended
        x = x + attended
        yield "resid_mid", x
        written = yield from self._mlp(self._norm(x, f"{name}.ln2"), f"{name}.mlp")
        yield "resid_post", x + written

    def _norm(self, x: Tensor, name: str) -> Tensor:
        gain, bias = self.weights.get(f"{name}.weight"), self.weights.get(f"{name}.bias")
        return F.layer_norm(x, x.shape[-1:], gain, bias, self.shape.eps)

    def _linear(self, x: Tensor, *names: str) -> Tensor:
        """The outputs of several linear layers with the same input, side by side."""
        return F.linear(x.to(self.dtype), *self._weights(*names))

    def _weights(self, *names: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of several linear layers, joined."""
        weight, bias = (self._joined([self.weights[f"{name}.{kind}"] for name in names]) for kind in ("weight", "bias"))
        return weight, bias

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return (parts[0] if len(parts) == 1 else torch.cat(list(parts))).to(self.dtype)

    def _attention(self, x: Tensor, name: str, positions: Positions | None, keys: Keys | None) -> Taken:
        """`x` is everywhere, but at `positions` alone where `keys` are given."""
        if positions is None:
            parts, seen = self._linear(x, f"{name}.q", f"{name}.k", f"{name}.v").chunk(3, dim=-1), None
        else:
            if keys is None:
                keys, x = self._linear(x, f"{name}.k", f"{name}.v"), at_positions(x, positions)
            parts = (self._linear(x, f"{name}.q"), *keys.chunk(2, dim=-1))
            seen = (torch.arange(keys.shape[1], device=x.device) <= positions[..., None])[:, None]
        q, k, v = (part.to(x.dtype).unflatten(-1, (self.shape.n_heads, -1)).transpose(1, 2) for part in parts)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None)
        return self._linear(heads.transpose(1, 2).flatten(2), f"{name}.o")

    def _mlp(self, x: Stream, name: str) -> Generator[tuple[Place, Tensor], None, Stream]:
        hidden = self._linear(x, f"{name}.fc_in")
        yield "pre", hidden
        if self.shape.activation == "relu" and not torch.is_grad_enabled():
            hidden = F.relu_(hidden)  # a fresh tensor of megabytes costs its page faults: 3 to 10 % of the pass to the site
        elif self.shape.activation in ("solu", "solu_ln"):
            hidden = _solu(hidden.to(x.dtype))
        else:
            hidden = ACTIVATIONS[self.shape.activation](hidden)
        if self.shape.activation == "solu_ln":
            yield "pre_norm", hidden
            hidden = self._norm(hidden, f"{name}.ln")
        yield "post", hidden
        written = self._linear(hidden, f"{name}.fc_out")
        yield "mlp_out", written
        return written


def _first(places: Iterator[tuple[Place, Tensor]], place: Place) -> Tensor:
    """What is at `place`; nothing after it is computed. Raises `KeyError`."""
    for found, x in places:
        if found == place:
            return x
    raise KeyError(place)


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
