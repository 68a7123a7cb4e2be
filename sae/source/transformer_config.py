"""Section `transformer` of params.yaml; in a file of its own so that reading it does not cost transformer_lens's import (4 s)."""

from dataclasses import dataclass
from typing import Any, Literal

from sae.errors import ConfigError
from sae.source.sizes import check_sizes

Precision = Literal["auto", "float32", "bfloat16"]
BRANCHES = ("main", "master", "HEAD")


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Section `transformer`: where the transformer comes from, and how one of our own is trained."""

    source: Literal["train", "folder", "pretrained"] = "train"
    """`train` one here, take one from a `folder` of the user's, or a `pretrained` one of the hub."""
    layer: int = 0
    """The layer whose MLP is looked at, from 0."""
    hook: str = ""
    """Name of the hook point, as transformer_lens names it; empty is `blocks.{layer}.mlp.hook_post`, after the nonlinearity (and,
    for `solu_ln`, after the MLP's LayerNorm; `blocks.{layer}.mlp.ln.hook_in` is before it)."""
    shuffle_weights: bool = False
    """Permute the entries of each of its weight tensors, by `seed`, once it is there: the control that has learned nothing but
    how large weights are (Towards Monosemanticity, "Automated interpretability", the randomised transformer). Not for a
    `pretrained` one whose weights stay in the hub's cache."""
    heldout_tokens: int = 262144
    """Held-out tokens on which the loss is measured and compared with the baselines, in contexts evenly spaced over the split."""

    n_layers: int = 1
    """train: layers, each attention and an MLP."""
    d_model: int = 128
    """train: width of the residual stream."""
    d_mlp: int = 512
    """train: neurons of each MLP."""
    n_heads: int = 4
    """train: attention heads; divides d_model."""
    activation: Literal["relu", "gelu", "solu", "solu_ln"] = "relu"
    """train: the MLP's nonlinearity."""
    n_tokens: int = 4_500_000
    """train: tokens seen in training, rounded up to whole batches; a smaller corpus is read again in a new order."""
    contexts_per_batch: int = 16
    """train: contexts in each step."""
    shards: int = 2
    """train: parts that each batch is cut in; on a CPU each has a thread (and a core) of its own, up to `run.threads`."""
    learning_rate: float = 0.003
    """train: AdamW's, at its highest."""
    final_learning_rate: float = 0.1
    """train: the learning rate of the last step, as a fraction of `learning_rate`."""
    warmup: float = 0.02
    """train: fraction of the steps over which the learning rate rises from 0, linearly."""
    weight_decay: float = 1.0
    """train: AdamW's decoupled decay (times the learning rate), on matrices only, not on biases and gains. High, because it
    makes neurons sparser and dictionaries better (docs/log.md)."""
    beta1: float = 0.9
    """train: AdamW's."""
    beta2: float = 0.98
    """train: AdamW's."""
    clip: float = 1.0
    """train: largest norm of the whole gradient."""
    precision: Precision = "auto"
    """train: of the matrix products. `auto` is bfloat16 where the processor has instructions for it, else float32.
    Weights, norms, softmax and the optimizer are float32 in both."""
    seed: int = 0
    """train: of the initial weights and the order of contexts."""

    path: str = ""
    """folder: what this stage wrote, or weights (safetensors, or a .pth state dict) beside transformer_lens's config.json."""

    name: str = ""
    """pretrained: full name on the hub, such as NeelNanda/GELU_1L512W_C4_Code."""
    revision: str = ""
    """pretrained: commit (best) or tag; a branch would not pin it."""

    def __post_init__(self) -> None:
        positive = ("n_layers", "d_model", "d_mlp", "n_heads", "n_tokens", "contexts_per_batch", "shards", "heldout_tokens")
        for name in positive:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.d_model % self.n_heads:
            raise ConfigError(f"n_heads must divide d_model; {self.n_heads} does not divide {self.d_model}")
        if self.layer < 0:
            raise ConfigError(f"layer counts from 0; {self.layer} is none")
        if self.source == "train" and self.layer >= self.n_layers:
            raise ConfigError(f"layer {self.layer} asked for, but the transformer has {self.n_layers} (n_layers), counted from 0")
        if self.source == "train":  # the least vocabulary and context: the stage counts again with those that it has
            check_sizes(fields_to_train(self, 1, 1), "section transformer")
        self._check_optimizer()
        self._check_source()

    def _check_optimizer(self) -> None:
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("final_learning_rate", "warmup", "weight_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in 0 to 1, not {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")

    def _check_source(self) -> None:
        if self.source == "folder" and not self.path:
            raise ConfigError("source: folder needs path: the folder that holds the weights and config.json")
        if self.source == "pretrained" and not self.name:
            raise ConfigError("source: pretrained needs name: a repository of the hub, such as NeelNanda/GELU_1L512W_C4_Code")
        if self.source == "pretrained" and self.revision in ("", *BRANCHES):
            raise ConfigError(
                f"source: pretrained needs revision: the commit of {self.name} to take (40 hex digits, on its page under Files, "
                f"History) or a tag; '{self.revision}' would let it change under you"
            )


def fields_to_train(config: TransformerConfig, n_vocab: int, context_length: int) -> dict[str, Any]:
    """`NATIVE_FIELDS` of the transformer that the params ask to be trained."""
    return {
        "n_layers": config.n_layers,
        "d_model": config.d_model,
        "d_head": config.d_model // config.n_heads,
        "n_heads": config.n_heads,
        "n_ctx": context_length,
        "d_mlp": config.d_mlp,
        "d_vocab": n_vocab,
        "act_fn": config.activation,
        "normalization_type": "LN",
    }
