"""Which tokens a unit promotes, told from its rule alone: those that follow its grams."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from numpy import ndarray
from torch import Tensor

from sae.interpret.evidence import Evidence
from sae.interpret.grams import Grams
from sae.interpret.ranks import auc
from sae.source.site import ActivationSource
from sae.storage.tokens import Contexts

FIRST_RANK, N_PROMOTED, N_RANDOM = 10, 50, 50
"""The paper's test: positive logit weights of ranks 10 to 60, among as many random tokens."""


class Candidates(NamedTuple):
    """The tokens of the test, in an order by chance (ties are then broken by chance)."""

    ids: Int64[ndarray, "unit candidate"]
    promoted: Bool[ndarray, "unit candidate"]


class LogitScores(NamedTuple):
    """For each unit."""

    accuracy: Float64[ndarray, " unit"]
    """Fraction of candidates that are said right, the upper half of the scores being said to be promoted. By chance 0.5."""
    auc: Float64[ndarray, " unit"]


def choose_candidates(
    source: ActivationSource,
    directions: Float32[Tensor, "unit d_mlp"],
    inverse_scale: float,
    allowed: Bool[ndarray, " vocab"],
    rng: np.random.Generator,
) -> Candidates | None:
    """Tokens whose logit weights have ranks 10 to 60 (of the `allowed` tokens), and 50 others that are not among the first 60.
    None where the vocabulary is too small."""
    ids = np.flatnonzero(allowed)
    last = FIRST_RANK + N_PROMOTED
    if len(ids) < last + N_RANDOM:
        return None
    chosen = []
    for part in directions.split(256):
        weights = source.logit_weights(part, inverse_scale)[:, torch.from_numpy(ids).to(source.device)]
        order = weights.argsort(dim=1, descending=True, stable=True).cpu().numpy()
        others = np.stack([rng.choice(row[last:], N_RANDOM, replace=False) for row in order])
        chosen.append(np.concatenate((order[:, FIRST_RANK:last], others), axis=1))
    place = np.concatenate(chosen)
    shuffle = rng.permuted(np.tile(np.arange(N_PROMOTED + N_RANDOM), (len(place), 1)), axis=1)
    return Candidates(ids[np.take_along_axis(place, shuffle, axis=1)], shuffle < N_PROMOTED)


class Following(NamedTuple):
    """Of the fitting tokens, what comes after each gram."""

    counts: Tensor
    """Sparse, [vocab, gram]: how often a token follows one whose longest gram this is; float32."""
    share: Float64[ndarray, " vocab"]
    """Of each token among all that follow."""


def followers(evidence: Evidence, grams: Grams, n_vocab: int) -> Following:
    """Pairs of neighbours within a document of the fitting side."""
    at = np.flatnonzero(evidence.fitting & _has_next(evidence.contexts))
    after = evidence.contexts.tokens.ravel()[at + 1].astype(np.int64)
    n_grams = len(grams.size)
    key, count = np.unique(after * n_grams + grams.leaf[at], return_counts=True)
    index = torch.from_numpy(np.stack((key // n_grams, key % n_grams)))
    values = torch.from_numpy(count.astype(np.float32))
    counts = torch.sparse_coo_tensor(index, values, (n_vocab, n_grams), is_coalesced=True, check_invariants=False)
    return Following(counts, np.bincount(after, minlength=n_vocab) / max(len(after), 1))


def _has_next(contexts: Contexts) -> Bool[ndarray, " token"]:
    same = np.zeros(contexts.document.shape, bool)
    same[:, :-1] = contexts.document[:, 1:] == contexts.document[:, :-1]
    return same.ravel()


def follow(following: Following, mean: Float32[ndarray, "unit gram"]) -> Float32[ndarray, "unit vocab"]:
    """How often each token follows the fitting tokens, of which each counts by the rule's prediction there.

    Not set in relation to how often it comes in general: promoted tokens are commoner than others, so that by such a lift any
    other unit's rule is below chance, and features' own scored less (docs/log.md)."""
    return torch.sparse.mm(following.counts, torch.from_numpy(np.ascontiguousarray(mean.T))).T.numpy()


def score_candidates(
    scores: Float[ndarray, "unit vocab"], candidates: Candidates, units: Int64[ndarray, " unit"] | None = None
) -> LogitScores:
    """Row i of `scores` against the candidates of unit i, or of `units[i]`."""
    chosen = candidates if units is None else Candidates(candidates.ids[units], candidates.promoted[units])
    mine = np.take_along_axis(scores, chosen.ids, axis=1)
    order = np.argsort(-mine, axis=1, kind="stable")
    said = np.zeros(mine.shape, bool)
    np.put_along_axis(said, order[:, :N_PROMOTED], True, axis=1)
    areas = [auc(row, label) for row, label in zip(mine, chosen.promoted, strict=True)]
    return LogitScores((said == chosen.promoted).mean(1), np.array(areas))
