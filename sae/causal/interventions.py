"""Changes of the activations along one direction, and what they do to each token's likelihood (Towards Monosemanticity,
"Feature downstream effects").

Whatever the dictionary does not explain of a row stays in it: x changes by a multiple of d_i alone.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.dictionary.base import Dictionary
from sae.errors import ConfigError
from sae.features.passes import Change, replacing
from sae.shapes import PerNeuron, Rows, TokenLosses, Tokens
from sae.source.site import ActivationSource


class Effect(NamedTuple):
    """What a change at every position does to the predictions of some contexts."""

    log_likelihood: TokenLosses
    """Change of log p(token t + 1 | tokens 0 ... t), nats, [context, predicted]: below 0 where the change makes the token that
    came less likely. Entry t is drawn under token t + 1; the activation that caused it stands at t or, in a deeper transformer,
    before."""
    active: Bool[Tensor, "context predicted"]
    """Where the feature fires at position t."""

    @property
    def n_active(self) -> int:
        """Predicted tokens at whose prediction it fires."""
        return int(self.active.sum())

    @property
    def mean_when_active(self) -> float:
        """Mean change over those, nats; NaN where there is none."""
        return float(self.log_likelihood[self.active].double().mean()) if self.active.any() else float("nan")


def ablate(dictionary: Dictionary, feature: int, direction: PerNeuron | None = None) -> Change:
    """x − f_i(x) d_i. With `direction` in the place of d_i: the same push elsewhere, which is the ablation's control."""
    return pin(dictionary, feature, 0.0, direction)


def pin(dictionary: Dictionary, feature: int, value: float, direction: PerNeuron | None = None) -> Change:
    """x + (`value` − f_i(x)) d_i: as if the feature had `value` at every position, in units of its activation."""
    index = torch.tensor([checked(dictionary, feature)], device=dictionary.W_dec.device)
    towards = dictionary.W_dec[feature] if direction is None else direction.to(dictionary.W_dec)

    def instead(rows: Rows) -> Rows:
        f = dictionary.encode_only(rows, index)
        return rows + ((value - f) * towards).to(rows.dtype)

    return instead


def without_direction(direction: PerNeuron) -> Change:
    """x − (x · v̂) v̂: nothing of x is left along `direction`, whose length does not matter."""
    unit = torch.nn.functional.normalize(direction.float(), dim=0)
    return lambda rows: rows - (rows @ unit)[:, None] * unit


def without_neuron(neuron: int) -> Change:
    """x with one of its entries, a neuron's activation, at 0."""

    def instead(rows: Rows) -> Rows:
        changed = rows.clone()
        changed[:, neuron] = 0.0
        return changed

    return instead


def all_but(tokens: Tokens, bos: int | None) -> Bool[Tensor, "context position"]:
    """Every position but those of BOS, which no dictionary is trained on."""
    return torch.ones_like(tokens, dtype=torch.bool) if bos is None else tokens != bos


@torch.no_grad()
def effect(source: ActivationSource, tokens: Tokens, change: Change, bos: int | None = None) -> TokenLosses:
    """Change of each predicted token's log-likelihood, nats, when `change` is made at every position but BOS."""
    return source.loss(tokens) - source.loss(tokens, replacing(change, all_but(tokens, bos)))


@torch.no_grad()
def ablation_effect(
    source: ActivationSource,
    dictionary: Dictionary,
    tokens: Tokens,
    feature: int,
    *,
    bos: int | None = None,
    direction: PerNeuron | None = None,
) -> Effect:
    """The paper's feature ablation: x becomes x − f_i(x) d_i at every position of every context, BOS excepted.

    Two forward passes. With `direction` in the place of d_i it is the control. Raises `ConfigError` for a feature that is not
    there.
    """
    change = effect(source, tokens, ablate(dictionary, feature, direction), bos)
    index = torch.tensor([feature], device=dictionary.W_dec.device)
    f = dictionary.encode_only(source.activations(tokens), index)[..., 0]
    return Effect(change, ((f > 0) & all_but(tokens, bos))[:, :-1])


def checked(dictionary: Dictionary, feature: int) -> int:
    """`feature`. Raises `ConfigError` where the dictionary has none such."""
    if not 0 <= feature < dictionary.n_features:
        raise ConfigError(f"no feature {feature}: this dictionary has {dictionary.n_features}")
    return feature


def attribution(
    activations: Float[Tensor, "row feature"], weights: Float[Tensor, "feature vocab"], next_token: Tensor
) -> Float[Tensor, "row feature"]:
    """a_i(j) = f_i(t_j) v_i(t_{j+1}), in logits: what each feature gave, by path expansion, to the token that came next.

    `weights` are the same features' logit weights (`ActivationSource.logit_weights`), `next_token` [row] the ids that followed.
    It is linear, and leaves out how the feature changes the final norm's σ (docs/method.md, "Causal effects").
    """
    return activations * weights[:, next_token].T
