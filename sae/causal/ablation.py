"""What ablating one feature does over held-out text, beside its controls: the same push elsewhere, and another feature."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from sae.causal.interventions import ablate, checked
from sae.chance import generator
from sae.dictionary.base import Dictionary
from sae.features.passes import batches, n_contexts, replacing
from sae.shapes import PerNeuron
from sae.source.site import ActivationSource
from sae.storage.tokens import Split

NEAREST = 20
"""Features of like density of which the control is one."""


class AblationStudy(NamedTuple):
    """Changes of log-likelihood are nats a token: below 0 where ablation makes the token that came less likely."""

    feature: int
    control: int
    """Another feature, of like density."""
    n_predicted: int
    """Predicted tokens that count, of all contexts read."""
    n_active: int
    """Those at whose prediction the feature fires; BOS predicts with no feature."""
    change: float
    """Mean over those when the feature is ablated; NaN where there is none, as all means below."""
    harmed: float
    """Fraction of those that become less likely."""
    direction_change: float
    """Mean over those when f_i(x) times a random direction of the same length as d_i is taken from x instead."""
    control_change: float
    """Mean over those when the control is ablated instead."""
    n_control_active: int
    control_own_change: float
    """Mean over the tokens at whose prediction the control itself fires, when it is ablated."""


@torch.no_grad()
def ablation_study(
    source: ActivationSource,
    dictionary: Dictionary,
    split: Split,
    feature: int,
    control: int,
    *,
    n_tokens: int,
    contexts_per_batch: int = 16,
    seed: int = 0,
) -> AblationStudy:
    """By forward passes of the contexts of `split` in which one of the two fires (elsewhere nothing changes), at any site.

    Raises `ConfigError` where the dictionary has no such feature.
    """
    direction = random_direction(dictionary.W_dec[checked(dictionary, feature)], seed)
    changes = (ablate(dictionary, feature), ablate(dictionary, feature, direction), ablate(dictionary, control))
    both = torch.tensor([feature, control], device=dictionary.W_dec.device)
    limit, n_predicted, found = n_contexts(split, n_tokens), 0, []
    for batch in batches(source, split, limit, label="ablation", contexts_per_batch=contexts_per_batch, skip_bos=True):
        active = (dictionary.encode_only(source.activations(batch.tokens), both) > 0) & batch.keep[..., None]
        n_predicted += int(batch.predicted.sum())
        fires = active.flatten(1).any(1)
        tokens, keep, active = batch.tokens[fires], batch.keep[fires], active[fires][:, :-1]
        if not len(tokens):
            continue
        clean = source.loss(tokens)
        lost = torch.stack([clean - source.loss(tokens, replacing(change, keep)) for change in changes], -1)
        found.append(torch.cat([active.double(), lost.double()], -1)[active.any(-1)].cpu().numpy())
    rows = np.concatenate([np.zeros((0, 5)), *found])
    return _summary(feature, control, n_predicted, rows)


def _summary(feature: int, control: int, n_predicted: int, rows: Float[ndarray, "token 5"]) -> AblationStudy:
    """`rows`: whether either fires, and the changes with the feature, the direction and the control ablated."""
    own, other = rows[rows[:, 0] > 0], rows[rows[:, 1] > 0]
    return AblationStudy(
        feature=feature,
        control=control,
        n_predicted=n_predicted,
        n_active=len(own),
        change=_mean(own[:, 2]),
        harmed=_mean(own[:, 2] < 0),
        direction_change=_mean(own[:, 3]),
        control_change=_mean(own[:, 4]),
        n_control_active=len(other),
        control_own_change=_mean(other[:, 4]),
    )


def _mean(values: ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def random_direction(like: PerNeuron, seed: int) -> PerNeuron:
    """A direction drawn evenly from the sphere, as long as `like`."""
    drawn = torch.from_numpy(generator(seed, "control direction").standard_normal(len(like))).to(like)
    return drawn * (like.norm() / drawn.norm())


def like_density(density: Float[ndarray, " feature"], feature: int, seed: int = 0) -> int:
    """One of the 20 features nearest in log density, drawn at random: the control for `feature`. Dead ones are left out."""
    return int(generator(seed, "like density", feature).choice(of_like_density(density, feature)[:NEAREST]))


def of_like_density(density: Float[ndarray, " feature"], feature: int) -> Int[ndarray, " other"]:
    """All other features that fire, the nearest in log density first."""
    distance = np.full(len(density), np.inf)
    alive = density > 0
    distance[alive] = np.abs(np.log(density[alive]) - np.log(max(float(density[feature]), 1e-300)))
    distance[feature] = np.inf
    nearest = np.argsort(distance, kind="stable")
    return nearest[np.isfinite(distance[nearest])]
