"""Continuations drawn from a transformer, token by token, with its activations changed or not."""

import numpy as np
import torch
from torch import Tensor

from sae.chance import generator
from sae.errors import ConfigError
from sae.features.interventions import all_but
from sae.features.passes import Change, replacing
from sae.source.site import ActivationSource


@torch.no_grad()
def sample(
    source: ActivationSource,
    prefix: list[int],
    n_new: int,
    *,
    temperature: float = 1.0,
    seed: int = 0,
    change: Change | None = None,
    bos: int | None = None,
    n_vocab: int | None = None,
) -> list[int]:
    """`n_new` ids that follow `prefix`, each drawn from softmax(logits / temperature); at temperature 0 the likeliest.

    `change` is made at every position but BOS, also those of the tokens drawn. Of a context longer than the transformer takes
    it sees its first token, if that is BOS, and the last ones. Ids from `n_vocab` on (an unembedding may be padded) and BOS are
    never drawn. One number of the `seed`'s stream a token, by the inverse of the cumulative distribution: two samples of one
    seed differ only where their distributions do. Raises `ConfigError` for an empty prefix or a negative temperature.
    """
    if not prefix:
        raise ConfigError("there is no token to continue: give some text")
    if not temperature >= 0:
        raise ConfigError(f"temperature = {temperature}: must be 0 or more")
    chance = generator(seed, "sample")
    ids = list(prefix)
    for _ in range(n_new):
        context = torch.tensor([_seen(ids, source.context_length, bos)], device=source.device)
        replace = None if change is None else replacing(change, all_but(context, bos))
        logits = source.logits(context, replace)[0, -1, :n_vocab].double().cpu()
        if bos is not None:
            logits[bos] = -torch.inf
        ids.append(_draw(logits, temperature, chance.random()))
    return ids[len(prefix) :]


def _seen(ids: list[int], longest: int, bos: int | None) -> list[int]:
    if len(ids) <= longest:
        return ids
    kept = ids[:1] if ids[0] == bos else []
    return kept + ids[len(ids) - (longest - len(kept)) :]


def _draw(logits: Tensor, temperature: float, number: float) -> int:
    if temperature == 0:
        return int(logits.argmax())
    cumulative = (logits / temperature).softmax(-1).cumsum(-1).numpy()
    return int(np.searchsorted(cumulative, number * cumulative[-1], side="right"))
