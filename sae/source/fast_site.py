"""The fast path of `TransformerSource.activations`: `FastForward` up to the site, where it computes what transformer_lens does.

Which transformers and sites have one is decided strictly, by the config, and then checked once against transformer_lens's own
pass on a few random tokens. Whatever may have changed since (weights replaced, hooks put in) is looked at before every call; that
takes about 0.2 ms a layer.

**Bits.** A context's activations came out with the same bits in batches of 1 to 32 contexts, on 1 and 2 threads, at 33 to 128
positions (torch 2.13's MKL on an AMD EPYC with AVX2; the default pipeline's shape, that with 2 layers, gelu-1l's). At 7 positions
and on 2 threads, batches of 1 context (and the last one, of 1, in batches of 31) differed in up to 39 % of the entries, by at
most 7e-7 of the largest activation. No BLAS promises more: rely on the bits only where batches, the number of positions that are
taken, and threads are the same. So the harvest, its resumption and the repair of its store all run the same whole batches.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sae.shapes import Activations, Positions, TakenActivations, Tokens
from sae.source.fast_forward import ACTIVATIONS, FastForward, KeyTable, Place, Shape
from sae.source.site import at_positions

PLACES: dict[str, Place] = {
    "hook_in": "resid_pre",
    "hook_resid_pre": "resid_pre",
    "attn.hook_out": "attn_out",
    "hook_attn_out": "attn_out",
    "hook_resid_mid": "resid_mid",
    "mlp.in.hook_out": "pre",
    "mlp.hook_pre": "pre",
    "mlp.ln.hook_in": "pre_norm",
    "mlp.out.hook_in": "post",
    "mlp.hook_post": "post",
    "mlp.hook_out": "mlp_out",
    "hook_mlp_out": "mlp_out",
    "hook_out": "resid_post",
    "hook_resid_post": "resid_post",
}
"""By a hook point's name within its layer. All others are transformer_lens's alone."""
TOLERANCE = 1e-4
"""Largest difference from transformer_lens's activations that the check allows, as a fraction of their norm."""
CHECKED_CONTEXTS, CHECKED_POSITIONS = 2, 16


class FastSite:
    """Gives the activations at one place of a bridge that `is_known`; float32, without gradients."""

    def __init__(self, bridge: Any, layer: int, place: Place):
        self.bridge, self.layer, self.place = bridge, layer, place
        self.shape, self.longest = shape_of(bridge), bridge.cfg.n_ctx
        self.form = _form(weights_of(bridge))

    @torch.no_grad()
    def __call__(
        self, tokens: Tokens, positions: Positions | None = None, table: KeyTable | None = None
    ) -> TakenActivations | None:
        """At `positions`, or at all. None for what is transformer_lens's: contexts too long, whose error it words; a bridge that
        was given hooks, which are to be called; one whose parameters are no longer those of the same architecture (norms folded
        away, another type).

        The parameters are looked up anew, so that replaced ones are seen, and nothing made of them is kept: none can be stale,
        but for `table`, where the caller gives it and stands for it.
        """
        forward = self._forward()
        if tokens.shape[1] > self.longest or forward is None:
            return None
        if table is not None and positions is not None:
            return forward.at_by_table(tokens, self.place, positions, table)
        return forward.at(tokens, self.layer, self.place, positions)

    @torch.no_grad()
    def key_table(self) -> KeyTable | None:
        """Of the weights as they are, where it serves: at a site in the first layer, on a CPU. (A GPU multiplies faster than it
        reads; unmeasured.) Checked against products as it is made, since it costs a pass over the vocabulary; warns, and gives
        none, where they differ."""
        forward = self._forward()
        device = next(self.bridge.original_model.parameters()).device
        if forward is None or self.layer > 0 or device.type != "cpu":
            return None
        table, (tokens, positions) = forward.key_table(), _checked(self.bridge, device)
        expected = self(tokens, positions)
        trouble = _trouble(lambda: self(tokens, positions, table), expected) if expected is not None else "is closed"
        if trouble:
            warnings.warn(f"keys are multiplied, not looked up: their table {trouble}", stacklevel=3)
            return None
        return table

    def _forward(self) -> FastForward | None:
        weights = weights_of(self.bridge)
        known = _form(weights) == self.form and not _has_hooks(self.bridge)
        return FastForward(weights, self.shape, torch.float32) if known else None


def fast_site(
    bridge: Any, layer: int, hook: str, slow: Callable[[Tokens], Activations], device: str | torch.device
) -> FastSite | None:
    """The fast path to the hook point `hook` of `layer`; None where the transformer or the hook is not one that it knows.

    `slow` gives transformer_lens's activations. Warns, and gives None, where they differ by more than `TOLERANCE`.
    """
    place = PLACES.get(hook.removeprefix(f"blocks.{layer}."))
    if place is None or not is_known(bridge):
        return None
    fast = FastSite(bridge, layer, place)
    tokens, every_other = _checked(bridge, device)
    expected = slow(tokens)
    if not torch.isfinite(expected).all():  # a broken transformer: nothing can be told
        return None
    there = at_positions(expected, every_other)
    trouble = _trouble(lambda: fast(tokens), expected) or _trouble(lambda: fast(tokens, every_other), there)
    if trouble:
        warnings.warn(
            f"activations at {hook} come by transformer_lens's own forward pass, slower than the fast path, which "
            f"{trouble}: transformer_lens may have changed, or a hook changes what the transformer computes",
            stacklevel=3,
        )
        return None
    return fast


def _checked(bridge: Any, device: str | torch.device) -> tuple[Tokens, Positions]:
    """Random tokens, and every other position of theirs."""
    shape = CHECKED_CONTEXTS, min(CHECKED_POSITIONS, bridge.cfg.n_ctx)
    tokens = torch.randint(bridge.cfg.d_vocab, shape, generator=torch.Generator().manual_seed(0)).to(device)
    return tokens, torch.arange(1, shape[1], 2, device=tokens.device).expand(len(tokens), -1)


def _trouble(fast: Callable[[], TakenActivations | None], expected: TakenActivations) -> str:
    """What is wrong with the fast path, as the end of a sentence; empty where nothing is."""
    try:
        found = fast()
    except (KeyError, RuntimeError) as error:
        return f"fails here ({error!r})"
    if found is None:
        return "is closed by a hook that was there before"
    if found.shape != expected.shape:
        return f"gives shape {tuple(found.shape)} here, not {tuple(expected.shape)}"
    difference, norm = float((found - expected).norm()), float(expected.norm())
    if difference <= TOLERANCE * norm:
        return ""
    return f"gives something else here (difference {difference:.3g} at a norm of {norm:.3g}, allowed {TOLERANCE:g} of it)"


def is_known(bridge: Any) -> bool:
    """Whether `FastForward` computes the function of `bridge`, as its config has it."""
    cfg = bridge.cfg
    if cfg.architecture != "TransformerLensNative":
        return False
    weights = weights_of(bridge)
    return (
        cfg.normalization_type in ("LN", "LNPre")
        and ("layers.0.ln1.weight" in weights) == (cfg.normalization_type == "LN")
        and cfg.positional_embedding_type == "standard"
        and cfg.attention_dir == "causal"
        and cfg.act_fn in ACTIVATIONS
        and not (cfg.attn_only or cfg.gated_mlp or cfg.attn_scores_soft_cap > 0)
        and cfg.n_key_value_heads in (None, cfg.n_heads)
        and (not cfg.use_attn_scale or cfg.attn_scale <= 0 or math.isclose(cfg.attn_scale, math.sqrt(cfg.d_head)))
        and all(weight.dtype == torch.float32 for weight in weights.values())
    )


def weights_of(bridge: Any) -> dict[str, nn.Parameter]:
    """The parameters of a native bridge, by the names of transformer_lens's `NativeModel`."""
    return {name.replace("._original_component", ""): value for name, value in bridge.original_model.named_parameters()}


def shape_of(bridge: Any) -> Shape:
    cfg = bridge.cfg
    return Shape(cfg.n_layers, cfg.n_heads, cfg.act_fn, cfg.eps)


def _form(weights: Mapping[str, Tensor]) -> dict[str, torch.dtype]:
    return {name: weight.dtype for name, weight in weights.items()}


def _has_hooks(bridge: Any) -> bool:
    """Whether a forward hook is on any module, hook points included, other than those that the bridge itself puts on its norms
    (at its first pass through them, to serve hook points that are switched off)."""
    hooks = (
        hook
        for m in bridge.original_model.modules()
        for each in (m._forward_hooks, m._forward_pre_hooks)
        for hook in each.values()
    )
    return any(not getattr(hook, "__module__", "").startswith("transformer_lens.model_bridge.") for hook in hooks)
