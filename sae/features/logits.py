"""What a feature does to the next token's logits, by path expansion (Towards Monosemanticity, "Feature downstream effects")."""

import numpy as np
import torch
from jaxtyping import Bool
from numpy import ndarray

from sae.features.table import N_BINS, N_LOGITS
from sae.shapes import Directions
from sae.source.site import ActivationSource
from sae.storage.tokens import TokenStore, to_tensor

SCALE_CONTEXTS = 512
"""Held-out contexts over which 1/σ of the final LayerNorm is averaged."""
COUNTED_TOKENS = 2**24
"""Train tokens, at most, by which the vocabulary is counted."""
BATCH_CONTEXTS = 16
MOST_WEIGHTS = 2**21
"""Logit weights [feature, vocab] at a time: with the copies that the histogram takes some 60 MiB, whatever the vocabulary."""
CHUNK_FEATURES = 256
NONE = -1


def mean_inverse_scale(source: ActivationSource, tokens: TokenStore) -> float:
    """Mean of 1/σ over positions of held-out text: the natural reading of the paper, which does not say how σ is chosen."""
    sums, n_contexts = 0.0, 0
    for contexts in tokens.split("heldout").batches(BATCH_CONTEXTS, limit=SCALE_CONTEXTS):
        sums += source.mean_inverse_scale(to_tensor(contexts.tokens, source.device)) * len(contexts.tokens)
        n_contexts += len(contexts.tokens)
    return sums / max(n_contexts, 1)


def allowed_tokens(tokens: TokenStore, min_count: int, n_vocab: int) -> Bool[ndarray, " vocab"]:
    """Tokens that occur at least `min_count` times in (the first 16 M tokens of) the train split, BOS and tokens whose prediction
    does not count left out.

    The unembedding of a token that is hardly ever seen is hardly trained, and would fill the lists.
    """
    split = tokens.split("train")
    counts = np.zeros(n_vocab, np.int64)
    for contexts in split.batches(4096, limit=max(1, COUNTED_TOKENS // split.context_length)):
        counts += np.bincount(contexts.tokens[contexts.known], minlength=n_vocab)[:n_vocab]
    allowed = counts >= min_count
    allowed[tokens.n_vocab :] = False
    return allowed


def logit_columns(
    source: ActivationSource, W_dec: Directions, inverse_scale: float, allowed: Bool[ndarray, " vocab"]
) -> dict[str, ndarray]:
    """The table's logit columns, over the `allowed` tokens."""
    parts: list[dict[str, ndarray]] = []
    ids = torch.from_numpy(np.flatnonzero(allowed)).to(source.device)
    for directions in W_dec.split(max(1, min(CHUNK_FEATURES, MOST_WEIGHTS // source.n_vocab))):
        weights = source.logit_weights(directions, inverse_scale)[:, ids]
        part = {"logit_histogram": np.zeros((len(directions), N_BINS), np.int64)}
        part["logit_edges"] = np.zeros((len(directions), 2), np.float32)
        if len(ids):
            part["logit_histogram"], part["logit_edges"] = _histogram(weights.cpu().numpy())
        part |= _extremes(weights, ids, "top", descending=True) | _extremes(weights, ids, "bottom", descending=False)
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _extremes(weights: torch.Tensor, ids: torch.Tensor, name: str, *, descending: bool) -> dict[str, ndarray]:
    n = min(N_LOGITS, weights.shape[1])
    best = weights.topk(n, dim=1, largest=descending, sorted=True)
    pad = ((0, 0), (0, N_LOGITS - n))
    return {
        f"logit_{name}_ids": np.pad(ids[best.indices].to(torch.int32).cpu().numpy(), pad, constant_values=NONE),
        f"logit_{name}_values": np.pad(best.values.float().cpu().numpy(), pad),
    }


def _histogram(weights: ndarray) -> tuple[ndarray, ndarray]:
    """Counts [feature, bin] over equal-width bins from the smallest to the largest weight of each row, and those two."""
    low, high = weights.min(1, keepdims=True), weights.max(1, keepdims=True)
    width = np.where(high > low, high - low, 1).astype(np.float64)
    bins = np.clip(((weights - low) / width * N_BINS).astype(np.int64), 0, N_BINS - 1)
    flat = (np.arange(len(weights))[:, None] * N_BINS + bins).ravel()
    counts = np.bincount(flat, minlength=len(weights) * N_BINS).reshape(len(weights), N_BINS)
    return counts, np.concatenate([low, high], 1).astype(np.float32)
