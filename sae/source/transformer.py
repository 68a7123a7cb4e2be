"""`TransformerSource`: a transformer of transformer_lens as an `ActivationSource`; built, saved and read back.

The only file that imports transformer_lens (which takes 4 to 6 s).
An artefact is `config.json` (its `form` and the hook point) with, for the form `native`, `weights.safetensors`: the
state dict of transformer_lens's own architecture. The form `hub` names a repository and a commit, for architectures
that only transformers can build; it is booted again from the hub's cache.
"""

import difflib
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae import artefact
from sae.chance import generator
from sae.errors import ConfigError, StoreError, needs, raise_if_of_disk
from sae.opened import steadily
from sae.paths import given
from sae.provenance import Run
from sae.shapes import Activations, Directions, Logits, LogitWeights, Positions, TakenActivations, TokenLosses, Tokens
from sae.source.fast_forward import FastForward, KeyTable
from sae.source.fast_site import fast_site, shape_of, weights_of
from sae.source.hub import snapshot
from sae.source.readout import Readout, has_final_norm, readout_of
from sae.source.site import Frozen, Replace, at_positions
from sae.source.sizes import check_sizes
from sae.source.transformer_config import TransformerConfig
from sae.tensors import save_tensors

with needs("pipeline"):
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources.native import boot as boot_native
    from transformer_lens.model_bridge.sources.transformers import boot as boot_transformers
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

HUB_PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt")
"""Files of a repository of transformers' own layout."""
WEIGHTS, CONFIG = "weights.safetensors", "config.json"
NATIVE_FIELDS = (
    *("n_layers", "d_model", "d_head", "n_heads", "n_ctx", "d_mlp", "d_vocab", "d_vocab_out", "act_fn", "normalization_type"),
    *("eps", "positional_embedding_type", "rotary_dim", "rotary_base", "attn_only", "gated_mlp", "final_rms", "attention_dir"),
    *("n_key_value_heads", "use_attn_scale", "attn_scale", "attn_scores_soft_cap", "output_logits_soft_cap"),
)
"""What of a TransformerBridgeConfig decides the function that the weights compute."""


class Site(NamedTuple):
    """Where in a transformer the activations are taken."""

    layer: int
    """From 0."""
    hook: str
    """Name of the hook point, as transformer_lens names it."""


class _Stop(Exception):  # noqa: N818 - no error: it ends a forward pass whose rest nobody needs
    pass


P = ParamSpec("P")
R = TypeVar("R")


def _ids_told(
    call: Callable[Concatenate["TransformerSource", Tokens, P], R],
) -> Callable[Concatenate["TransformerSource", Tokens, P], R]:
    """Token ids that the vocabulary has not become a `ConfigError`: looked at once the lookup has failed, at no cost before."""

    @functools.wraps(call)
    def told(self: "TransformerSource", tokens: Tokens, *args: P.args, **options: P.kwargs) -> R:
        try:
            return call(self, tokens, *args, **options)
        except IndexError:
            low, high = int(tokens.min()), int(tokens.max())
            if low >= 0 and high < self.n_vocab:
                raise
        raise ConfigError(
            f"token ids from {low} to {high} were given, the transformer's vocabulary has {self.n_vocab}, from 0: make "
            "the tokens with its own tokenizer (section tokens)"
        )

    return told


class TransformerSource:
    """Meets `ActivationSource`: one transformer_lens bridge, cut at one site.

    Raises `ConfigError` where the transformer has no such layer or hook point.
    """

    def __init__(self, bridge: TransformerBridge, site: Site, device: str | torch.device = "cpu"):
        self.bridge, self.site, self.device = bridge.eval().to(device, print_details=False), site, str(device)
        bridge.requires_grad_(False)
        self.n_layers: int = bridge.cfg.n_layers
        self.n_vocab: int = bridge.cfg.d_vocab
        self.context_length: int = bridge.cfg.n_ctx
        self.run: Run | None = None
        """Where it came from; None for one that was never saved."""
        _check_site(bridge, site)
        try:
            probe = self._stopped_at(site.hook, torch.zeros(1, 1, dtype=torch.int64, device=device))
        except ValueError as error:
            raise ConfigError(f"{site.hook} cannot be a site: {error}") from None
        if probe.ndim != 3:
            raise ConfigError(f"{site.hook} gives tensors of shape {tuple(probe.shape)}; a site is [context, position, width]")
        self.d_mlp: int = probe.shape[-1]
        """Width of the activations at the site: the MLP's neurons at the default hook."""
        self._fast = fast_site(bridge, site.layer, site.hook, lambda tokens: self._stopped_at(site.hook, tokens), device)

    @_ids_told
    def activations(self, tokens: Tokens) -> Activations:
        """The protocol's, by the fast path of `fast_site.py` where there is one for this transformer and site."""
        found = None if self._fast is None else self._fast(tokens)
        return self._stopped_at(self.site.hook, tokens) if found is None else found

    def activations_at(self, tokens: Tokens, positions: Positions) -> TakenActivations:
        return self._activations_at(tokens, positions, None)

    def frozen(self) -> Frozen:
        """The protocol's: keys and values of a site in the first layer are looked up from then on."""
        table = None if self._fast is None else self._fast.key_table()
        return Frozen(self.d_mlp, self.device, lambda tokens, positions: self._activations_at(tokens, positions, table))

    @_ids_told
    def _activations_at(self, tokens: Tokens, positions: Positions, table: KeyTable | None) -> TakenActivations:
        found = None if self._fast is None else self._fast(tokens, positions, table)
        return at_positions(self._stopped_at(self.site.hook, tokens), positions) if found is None else found

    @_ids_told
    @torch.no_grad()
    def logits(self, tokens: Tokens, replace: Replace | None = None) -> Logits:
        if replace is None:
            return self.bridge(tokens, return_type="logits").float()

        def splice(x: Tensor, hook: object) -> Tensor:
            return replace(x.float()).to(x.dtype)

        return self.bridge.run_with_hooks(tokens, fwd_hooks=[(self.site.hook, splice)], return_type="logits").float()

    @torch.no_grad()
    def loss(self, tokens: Tokens, replace: Replace | None = None) -> TokenLosses:
        logits = self.logits(tokens, replace)[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1)

    def mean_inverse_scale(self, tokens: Tokens) -> float:
        if not has_final_norm(self.bridge):
            return 1.0
        return float(self._stopped_at("ln_final.hook_scale", tokens).double().reciprocal().mean())

    @torch.no_grad()
    def logit_weights(self, directions: Directions, inverse_scale: float) -> LogitWeights:
        """The protocol's, which is the whole linear effect from the last layer; from an earlier one it leaves out what
        later layers make of a direction. RMSNorm subtracts no mean. Raises `ConfigError` at a site that neither the MLP's
        output matrix nor the residual stream reads.
        """
        readout = self._readout()
        weights = readout.centre(directions.float() @ readout.W_out) * inverse_scale @ readout.W_U
        return weights - weights.median(-1, keepdim=True).values

    def readout(self) -> Readout | None:
        """The protocol's; a formula that does not give transformer_lens's logits after a change at the site is not given."""
        if self.site.layer != self.n_layers - 1:
            return None
        try:
            readout = self._readout()
        except ConfigError:
            return None
        chance = torch.Generator().manual_seed(0)
        tokens = torch.randint(self.n_vocab, (2, min(8, self.context_length)), generator=chance).to(self.device)
        change = torch.randn(*tokens.shape, self.d_mlp, generator=chance).to(self.device)
        return readout if readout.agrees(tokens, change, self.logits(tokens, lambda activations: activations + change)) else None

    def _readout(self) -> Readout:
        """From the site on, whatever else may lie between. Raises `ConfigError` for a site that has no output map."""
        last = f"blocks.{self.n_layers - 1}.hook_resid_post"
        return readout_of(self.bridge, self._output_map(), lambda tokens: self._stopped_at(last, tokens))

    def _output_map(self) -> Tensor:
        """[d_mlp, d_model]: what a direction at the site writes to the residual stream."""
        layer, name = self.site.layer, self.site.hook.removeprefix(f"blocks.{self.site.layer}.")
        if name in ("mlp.hook_post", "mlp.out.hook_in"):
            return self.bridge.blocks[layer].mlp.W_out.float()
        if name in ("hook_mlp_out", "mlp.hook_out", "hook_attn_out", "attn.hook_out", "hook_resid_mid", "hook_resid_post"):
            return torch.eye(self.d_mlp, device=self.device)
        if name in ("mlp.ln.hook_in",):  # SoLU before its LayerNorm: through that norm as through the final one, 1/σ left at 1
            norm, out = self.bridge.blocks[layer].mlp.ln, self.bridge.blocks[layer].mlp.W_out.float()
            x = norm.original_component.weight.float()[:, None] * out
            return x - x.mean(0, keepdim=True)
        raise ConfigError(f"no logit weights at the hook {self.site.hook}: it writes to the residual stream through no matrix")

    @torch.no_grad()
    def _stopped_at(self, name: str, tokens: Tokens) -> Tensor:
        """The tensor at a hook point, float32. `stop_at_layer` is a silent no-op for the last layer of transformer_lens 4, so
        the hook raises: 9 times faster than a full pass at gelu-1l's shape."""
        caught: list[Tensor] = []

        def grab(x: Tensor, hook: object) -> None:
            caught.append(x)
            raise _Stop

        try:
            self.bridge.run_with_hooks(tokens, fwd_hooks=[(name, grab)], return_type=None)
        except _Stop:
            return caught[0].float()
        raise ConfigError(f"the hook {name} is never reached in this transformer's forward pass; choose another one")


def _check_site(bridge: TransformerBridge, site: Site) -> None:
    n_layers = bridge.cfg.n_layers
    if not 0 <= site.layer < n_layers:
        layers = "1 layer" if n_layers == 1 else f"{n_layers} layers"
        raise ConfigError(f"layer {site.layer} asked for, but the transformer has {layers}, counted from 0")
    if site.hook.startswith("blocks.") and not site.hook.startswith(f"blocks.{site.layer}."):
        raise ConfigError(f"the hook {site.hook} is not in layer {site.layer}; let transformer.layer and transformer.hook agree")
    if site.hook not in bridge.hook_dict:
        near = difflib.get_close_matches(site.hook, list(bridge.hook_dict), n=3)
        raise ConfigError(f"the transformer has no hook point '{site.hook}'; the nearest are: {', '.join(near) or 'none'}")


def _plain(value: Any) -> Any:
    """A config's value as JSON knows it (transformer_lens puts numpy numbers in)."""
    return value.item() if hasattr(value, "item") else value


def site_of(config: TransformerConfig) -> Site:
    """The site that the params name."""
    return Site(config.layer, config.hook or f"blocks.{config.layer}.mlp.hook_post")


def build_native(
    fields: dict[str, Any], seed: int = 0, *, where: str = "the transformer", weights: Path | None = None
) -> TransformerBridge:
    """A transformer of transformer_lens's own architecture with fresh weights; `fields` are `NATIVE_FIELDS`.
    A seed above 32 bits is hashed. Raises `ConfigError` for sizes that are none, too large, or above what `weights` holds."""
    check_sizes(fields, where, None if weights is None else weights.stat().st_size)
    seed = seed if seed < 2**32 else int(generator(seed, "transformer").integers(2**32))
    try:
        return boot_native(TransformerBridgeConfig(**fields, seed=seed))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"transformer_lens cannot build such a transformer: {error}; it was given {fields}") from None


def fast_forward(bridge: TransformerBridge, dtype: torch.dtype) -> FastForward:
    """The quick forward pass over the weights of `bridge`, one that `fields_to_train` describes; its `weights` are parameters."""
    return FastForward(weights_of(bridge), shape_of(bridge), dtype)


def boot_hub(folder: Path, name: str) -> TransformerBridge:
    """Whatever transformer_lens boots, from the folder of a hub repository's files; on the CPU, float32."""
    try:
        return boot_transformers(str(folder), device="cpu")
    except (ValueError, OSError, KeyError, RuntimeError, ImportError, NotImplementedError) as error:
        raise_if_of_disk(error, f"reading {folder}")
        raise ConfigError(f"transformer_lens cannot boot {name} from {folder}: {error}") from None


def load_weights(bridge: TransformerBridge, state: dict[str, Tensor], where: str) -> None:
    """Fill `bridge`, strictly, from a state dict with transformer_lens 4's names or with HookedTransformer's (`W_Q`, `W_E`);
    only the unembedding's bias may be missing, and is zero. Raises `ConfigError` that names what does not fit."""
    try:
        if any(".W_" in name for name in state):
            state = convert_tl_checkpoint(state, bridge.cfg)
        bias = torch.zeros(bridge.W_U.shape[-1])
        bridge.load_state_dict({"unembed.bias": bias, **{name: value.float() for name, value in state.items()}}, strict=True)
    except (RuntimeError, KeyError, ValueError) as error:
        raise ConfigError(f"the weights in {where} do not fit its config: {error}") from None


def check_fit(source: TransformerSource, n_vocab: int, context_length: int) -> None:
    """Raises `ConfigError` where the transformer knows fewer token ids, or shorter contexts, than the token store holds."""
    if source.n_vocab < n_vocab:
        raise ConfigError(
            f"the token store has {n_vocab} token ids, the transformer's vocabulary only {source.n_vocab}: it was trained with "
            "another tokenizer; make the tokens with the transformer's own (section tokens)"
        )
    if source.context_length < context_length:
        raise ConfigError(
            f"the token store's contexts are {context_length} tokens long, the transformer takes at most "
            f"{source.context_length}; lower the context length in section tokens"
        )


def write_source(path: Path, source: TransformerSource, hub: dict[str, str] | None = None) -> None:
    """Put the transformer's files into the draft directory `path`; with `hub` (name, commit) no weights but where they are."""
    bridge = source.bridge
    form: dict[str, Any] = {"site": source.site._asdict(), "form": "hub" if hub else "native"}
    if hub:
        form["hub"] = hub
    else:
        form["config"] = {name: _plain(getattr(bridge.cfg, name)) for name in NATIVE_FIELDS if hasattr(bridge.cfg, name)}
        save_tensors(bridge.state_dict(), path / WEIGHTS)
    (path / CONFIG).write_text(json.dumps(form, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_source(path: str | Path, device: str | torch.device = "cpu") -> TransformerSource:
    """The committed transformer in the folder `path`, digests checked.

    Raises `StoreError` where it is missing or damaged, `UnavailableError` where its weights lie in a hub out of reach.
    """
    path = given(path)
    return steadily(path, lambda: _load(path, device))


def _load(path: Path, device: str | torch.device) -> TransformerSource:
    run = artefact.read_run(path, "transformer", made_by="dvc repro transformer")
    artefact.verify(path, run)
    try:
        form = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        site = Site(**form["site"])
        if form["form"] == "hub":
            bridge = boot_hub(snapshot(form["hub"]["name"], form["hub"]["commit"], patterns=HUB_PATTERNS), form["hub"]["name"])
        else:
            bridge = build_native(form["config"], where=str(path / CONFIG), weights=path / WEIGHTS)
            load_weights(bridge, load_file(path / WEIGHTS), str(path))
    except ConfigError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, SafetensorError) as error:
        raise StoreError(f"{path} is no transformer that this version reads ({error!r}); make it again") from None
    source = TransformerSource(bridge, site, device)
    source.run = run
    return source
