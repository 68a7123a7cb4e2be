"""One feature's ablation beside many controls at once, from the firings of a pass: no forward pass for any of them."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from sae.causal.ablation import random_direction
from sae.causal.interventions import checked
from sae.dictionary.base import Dictionary
from sae.errors import ConfigError
from sae.features.ablations import Pairs, changes_of
from sae.features.firings import Firings
from sae.source.site import ActivationSource
from sae.storage.tokens import Split


class Controls(NamedTuple):
    """Mean changes of log-likelihood, nats a token, as in `AblationStudy`; NaN where there is no token to take the mean over."""

    n_active: int
    """Tokens at which the feature fires, but the last of each context."""
    change: float
    """Over those, when it is ablated."""
    directions: Float[ndarray, " direction"]
    """Over those, when the same push is given to random directions instead; float64, as the two below."""
    controls: Float[ndarray, " control"]
    """Over those, when each of the other features is ablated."""
    controls_own: Float[ndarray, " control"]
    """When each of them is, over the tokens at which it fires itself."""


@torch.no_grad()
def ablation_controls(
    source: ActivationSource,
    dictionary: Dictionary,
    split: Split,
    firings: Firings,
    feature: int,
    others: list[int],
    *,
    n_directions: int = 20,
    contexts_per_batch: int = 16,
    seed: int = 0,
) -> Controls:
    """`firings` are those of `dictionary` over the first contexts of `split` (`collect.read`); `others` the control features.

    Direction k is `random_direction` of `seed` + k. Raises `ConfigError` where the dictionary has no such feature, or the site
    does not lie in the last layer (`causal.ablation_study` is for any).
    """
    readout = source.readout()
    if readout is None:
        raise ConfigError("between this site and the logits lies more than the final norm: use causal.ablation_study")
    own = dictionary.W_dec[checked(dictionary, feature)]
    pushes = [own, *(random_direction(own, seed + k) for k in range(n_directions))]
    pushes += [dictionary.W_dec[checked(dictionary, other)] for other in others]
    at = [_firings_of(firings, i, split.context_length) for i in [feature] * (1 + n_directions) + others]
    which = np.repeat(np.arange(len(at)), [len(token) for token, _ in at])
    token, value = (np.concatenate(parts) for parts in zip(*at, strict=True))
    order = np.argsort(token, kind="stable")
    pairs = Pairs(token[order], which[order], value[order])
    u = readout.centre(torch.stack(pushes).float() @ readout.W_out)
    v = u @ readout.W_U if u.device.type == "cpu" else None
    change = -changes_of(source, readout, split, pairs, u, v, contexts_per_batch).astype(np.float64)
    here, counts = np.isin(pairs.token, at[0][0]), np.bincount(which, minlength=len(at))
    n = len(at[0][0])
    at_its = np.bincount(pairs.feature[here], change[here], minlength=len(at)) / (n or np.nan)
    at_own = np.bincount(pairs.feature, change, minlength=len(at)) / np.where(counts > 0, counts, np.nan)
    return Controls(n, float(at_its[0]), at_its[1 : 1 + n_directions], at_its[1 + n_directions :], at_own[1 + n_directions :])


def _firings_of(firings: Firings, feature: int, context_length: int) -> tuple[ndarray, ndarray]:
    """Tokens and activations of one feature, without the last token of each context, which predicts nothing."""
    token, value = firings.of(feature)
    kept = (token + 1) % context_length != 0
    return token[kept], value[kept]
