"""The features that go with a feature: those of its own dictionary, or of another one, that correlate most with it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from sae.features.correlations import NONE, OUT, ByToken, by_token, moments
from sae.features.firings import Firings
from sae.features.table import N_PARTNERS
from sae.kernels.native_partners import best_partners
from sae.kernels.threads import for_blocks
from sae.metrics.similarity import spread

THREAD_FEATURES = 64
"""That one thread takes at a time."""


class Scale(NamedTuple):
    """Of every feature, over the tokens that count."""

    total: Float[ndarray, " feature"]
    spread: Float[ndarray, " feature"]
    """Square root of the squared deviation."""

    @classmethod
    def of(cls, firings: Firings, n_tokens: int) -> "Scale":
        sums = moments(firings, n_tokens)
        return cls(sums.total.numpy(), spread(sums).numpy())


class Partners(NamedTuple):
    """The features among which to look."""

    by_token: ByToken
    scale: Scale
    n_tokens: int
    rare: Int[ndarray, " alive"]
    """Those that ever fired, the least mean over σ first: the best of all that never fire beside a feature."""

    @classmethod
    def of(cls, firings: Firings, n_places: int, n_tokens: int) -> "Partners":
        """`n_places` is the length of the pass, BOS included, of which `n_tokens` count."""
        scale, alive = Scale.of(firings, n_tokens), np.flatnonzero(firings.n_active)
        total, deviation = scale.total[alive], scale.spread[alive]
        ratio = np.divide(total, deviation, out=np.full(len(alive), np.inf), where=deviation > 0)
        return cls(by_token(firings, n_places), scale, n_tokens, alive[np.argsort(ratio, kind="stable")])


def partner_columns(name: str, firings: Firings, partners: Partners, *, own: int | None) -> dict[str, ndarray]:
    """The columns `<name>_correlated_...` of the features of `firings`, exact, with all `partners`; where these are the same
    dictionary's, `own` is the first feature's place among them: none is listed as its own partner. Where fewer ever fired than
    there are places, the others are `NONE`."""
    ids = np.full((firings.n_features, N_PARTNERS), NONE, np.int32)
    best = np.full((firings.n_features, N_PARTNERS), OUT)
    these = (firings.start, firings.token, firings.value, *Scale.of(firings, partners.n_tokens))
    others = (*partners.by_token, *partners.scale, partners.rare)

    def work(k: int) -> None:
        begin, end = k * THREAD_FEATURES, min((k + 1) * THREAD_FEATURES, firings.n_features)
        best_partners(begin, end, *these, *others, partners.n_tokens, -1 if own is None else own, ids, best)

    for_blocks(work, -(-firings.n_features // THREAD_FEATURES))
    values = np.where(ids == NONE, 0.0, best).astype(np.float32)
    return {f"{name}_correlated_ids": ids, f"{name}_correlated_values": values}


def no_partners(name: str, n_features: int) -> dict[str, ndarray]:
    """The same where there is no such dictionary."""
    shape = (n_features, N_PARTNERS)
    return {f"{name}_correlated_ids": np.full(shape, NONE, np.int32), f"{name}_correlated_values": np.zeros(shape, np.float32)}
