"""Continuations drawn from a transformer, token by token, with its activations changed or not."""

import numpy as np
import torch
from torch import Tensor

from sae.causal.interventions import all_but
from sae.chance import generator
from sae.errors import ConfigError
from sae.features.passes import Change, replacing
from sae.source.site import ActivationSource


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
    (found,) = sample_each(
        source, [prefix], n_new, temperature=temperature, seeds=[seed], change=change, bos=bos, n_vocab=n_vocab
    )
    return found


@torch.no_grad()
def sample_each(
    source: ActivationSource,
    prefixes: list[list[int]],
    n_new: int,
    *,
    seeds: list[int],
    temperature: float = 1.0,
    change: Change | None = None,
    bos: int | None = None,
    n_vocab: int | None = None,
) -> list[list[int]]:
    """`sample` for several prefixes of one length, each with a seed of its own, in the same forward passes."""
    if not all(prefixes):
        raise ConfigError("there is no token to continue: give some text")
    if not temperature >= 0:
        raise ConfigError(f"temperature = {temperature}: must be 0 or more")
    assert len({len(prefix) for prefix in prefixes}) <= 1, "of different lengths"
    chances = [generator(seed, "sample") for seed in seeds]
    ids = [list(prefix) for prefix in prefixes]
    for _ in range(n_new):
        contexts = torch.tensor([_seen(each, source.context_length, bos) for each in ids], device=source.device)
        replace = None if change is None else replacing(change, all_but(contexts, bos))
        logits = source.logits(contexts, replace)[:, -1, :n_vocab].double().cpu()
        if bos is not None:
            logits[:, bos] = -torch.inf
        for each, of_each, chance in zip(ids, logits, chances, strict=True):
            each.append(_draw(of_each, temperature, chance.random()))
    return [each[len(prefix) :] for each, prefix in zip(ids, prefixes, strict=True)]


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
