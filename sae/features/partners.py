"""The features that go with a feature: those of its own dictionary, or of another one, that correlate most with it."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray

from sae.accumulate import Moments
from sae.features.correlations import NONE, OUT, ByToken, by_token, feature_blocks, moments
from sae.features.firings import Firings
from sae.features.table import N_PARTNERS


class Partners(NamedTuple):
    """The features among which to look."""

    by_token: ByToken
    moments: Moments
    silent: Int[torch.Tensor, " feature"]
    """Those that never fired."""

    @classmethod
    def of(cls, firings: Firings, n_places: int, n_tokens: int) -> "Partners":
        """`n_places` is the length of the pass, BOS included, of which `n_tokens` count."""
        silent = torch.from_numpy(np.flatnonzero(firings.n_active == 0))
        return cls(by_token(firings, n_places), moments(firings, n_tokens), silent)


def partner_columns(name: str, firings: Firings, partners: Partners, *, own: int | None) -> dict[str, ndarray]:
    """The columns `<name>_correlated_...` of the features of `firings`, exact, with all `partners`; where these are the same
    dictionary's, `own` is the first feature's place among them: none is listed as its own partner."""
    n = min(N_PARTNERS, len(partners.moments.total))
    ids, values = (
        np.full((firings.n_features, N_PARTNERS), NONE, np.int32),
        np.zeros((firings.n_features, N_PARTNERS), np.float32),
    )
    for first, correlation in feature_blocks(firings, partners.by_token, moments(firings, partners.moments.n), partners.moments):
        correlation.index_fill_(1, partners.silent, OUT)
        if own is not None:
            correlation[:, own + first :].fill_diagonal_(OUT)
        best = correlation.topk(n, dim=1)
        rows = slice(first, first + len(correlation))
        known = (best.values > OUT) & torch.from_numpy(firings.n_active[rows] > 0)[:, None]
        ids[rows, :n] = torch.where(known, best.indices, NONE).numpy()
        values[rows, :n] = torch.where(known, best.values, 0.0).numpy()
    return {f"{name}_correlated_ids": ids, f"{name}_correlated_values": values}


def no_partners(name: str, n_features: int) -> dict[str, ndarray]:
    """The same where there is no such dictionary."""
    shape = (n_features, N_PARTNERS)
    return {f"{name}_correlated_ids": np.full(shape, NONE, np.int32), f"{name}_correlated_values": np.zeros(shape, np.float32)}
