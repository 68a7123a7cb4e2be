"""How alike the effects of paired features are: their logit weights, and their attributions to the next token."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from sae.accumulate import Moments
from sae.dictionary.base import Dictionary
from sae.features.firings import Firings
from sae.metrics.similarity import pearson, row_pearson
from sae.source.site import ActivationSource

CHUNK_PAIRS = 256
"""Whose logit weights are in memory at once."""


class Reader(NamedTuple):
    """One dictionary, the transformer that it is of, and what fired in it over the pass."""

    source: ActivationSource
    dictionary: Dictionary
    inverse_scale: float
    """Mean 1/σ of its final LayerNorm (`logits.mean_inverse_scale`)."""
    firings: Firings


class Effects(NamedTuple):
    """Pearson correlations of each pair, float64; NaN for a feature without partner."""

    logit: Float[ndarray, " pair"]
    """Of the two logit weight vectors, over the tokens of the vocabulary that are allowed."""
    attribution: Float[ndarray, " pair"]
    """Of the two attributions to the next token, over all tokens that have one."""


def effects(
    first: Reader,
    second: Reader,
    partner: Int[ndarray, " pair"],
    allowed: Bool[ndarray, " vocab"],
    following: Int[ndarray, " token"],
    n_counted: int,
) -> Effects:
    """Feature i of `first` with feature `partner[i]` of `second` (-1: none).

    The attribution of a feature to what follows token j is a(j) = f(t_j) v[t_{j+1}], v its logit weights (Towards
    Monosemanticity, "Universality"). `following` is t_{j+1} by place in the pass, -1 where the context ends; `n_counted` of the
    places that count have one.
    """
    found = Effects(*(np.full(len(partner), np.nan) for _ in Effects._fields))
    paired = np.flatnonzero(partner >= 0)
    for begin in range(0, len(paired), CHUNK_PAIRS):
        index = paired[begin : begin + CHUNK_PAIRS]
        ids = (index, partner[index])
        weights = [_logit_weights(side, of) for side, of in zip((first, second), ids, strict=True)]
        found.logit[index] = row_pearson(*(part[:, allowed] for part in weights)).numpy()
        for k, (i, j) in enumerate(zip(*ids, strict=True)):
            a, b = (
                _attribution(side.firings, of, v[k], following)
                for side, of, v in zip((first, second), (i, j), weights, strict=True)
            )
            found.attribution[i] = sparse_pearson(a, b, n_counted)
    return found


def _logit_weights(reader: Reader, ids: Int[ndarray, " pair"]) -> Float[Tensor, "pair vocab"]:
    directions = reader.dictionary.W_dec[torch.from_numpy(ids).to(reader.dictionary.W_dec.device)]
    return reader.source.logit_weights(directions.float(), reader.inverse_scale).cpu()


def _attribution(firings: Firings, i: int | np.integer, weights: Tensor, following: ndarray) -> tuple[ndarray, ndarray]:
    """Where feature i fires and something follows, and its attribution there, float64."""
    token, value = firings.of(i)
    follows = following[token] >= 0
    token = token[follows]
    return token, value[follows].astype(np.float64) * weights.numpy()[following[token]]


def sparse_pearson(a: tuple[ndarray, ndarray], b: tuple[ndarray, ndarray], n: int) -> float:
    """Pearson correlation over `n` places of two sparse vectors, each (sorted places, values there), 0 elsewhere; 0 where one is
    constant."""
    _, in_a, in_b = np.intersect1d(a[0], b[0], assume_unique=True, return_indices=True)
    product = torch.tensor([[a[1][in_a] @ b[1][in_b]]], dtype=torch.float64)
    x, y = (Moments(n, *torch.tensor([[values.sum()], [values @ values]], dtype=torch.float64)) for _, values in (a, b))
    return float(pearson(x, y, product))
