"""What each feature does to the probability of every token, and on which tokens each fires: the two halves of an automaton's
causal edge. Exact: from every firing, as in `ablations`."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from sae.errors import ConfigError
from sae.features.ablations import Pairs, pairs_of
from sae.features.examples import scramble
from sae.features.firings import Firings
from sae.features.passes import batches
from sae.features.together import Text
from sae.kernels.native_effects import add_effects, clean_probabilities
from sae.kernels.threads import for_blocks
from sae.shapes import Directions
from sae.source.readout import Readout
from sae.source.site import ActivationSource
from sae.storage.tokens import Split

THREAD_FEATURES, THREAD_ROWS = 16, 64
"""That one thread takes at a time."""
CHUNK_FEATURES = 512
"""Of which tokens are counted at once."""


class Effects(NamedTuple):
    """Of the features `first`, `first + 1`, ..."""

    first: int
    change: Float[ndarray, "unit vocab"]
    """Mean over the ablated firings of p(token) − p(token) with the feature ablated, float32; 0 for one without firings."""


def token_means(text: Text, firings: Firings, n_vocab: int) -> tuple[Float[ndarray, "feature vocab"], Int[ndarray, " vocab"]]:
    """E[f | token]: the mean activation of every feature on every token, over the positions that count, float32, 0 for tokens
    that do not occur; and how often each occurs."""
    ids = text.tokens.ravel().astype(np.int64)
    count = np.bincount(ids[text.kept.ravel()], minlength=n_vocab)
    means = np.zeros((firings.n_features, n_vocab), np.float32)
    for begin in range(0, firings.n_features, CHUNK_FEATURES):
        end = min(begin + CHUNK_FEATURES, firings.n_features)
        part = slice(firings.start[begin], firings.start[end])
        flat = (firings.feature[part].astype(np.int64) - begin) * n_vocab + ids[firings.token[part]]
        sums = np.bincount(flat, firings.value[part], minlength=(end - begin) * n_vocab).reshape(end - begin, n_vocab)
        means[begin:end] = sums / np.maximum(count, 1)
    return means, count


def readout_or_raise(source: ActivationSource) -> Readout:
    """Raises `ConfigError` where more than the final norm lies between the site and the logits, or off the CPU."""
    readout = source.readout()
    if readout is None:
        raise ConfigError(
            "automata need a site in the transformer's last layer: elsewhere an ablation at one token has effects at others; "
            "set transformer.layer to the last one"
        )
    if torch.device(source.device).type != "cpu":
        raise ConfigError("automata are found on the CPU (compiled loops); load transformer and dictionary with device='cpu'")
    return readout


@torch.no_grad()
def token_effects(
    source: ActivationSource,
    W_dec: Directions,
    split: Split,
    firings: Firings,
    *,
    at_most: int | None,
    memory: int,
    contexts_per_batch: int,
) -> Iterator[Effects]:
    """As many features at a time as `memory` (bytes) holds, 8 bytes for each of the vocabulary; the text is read once for each
    lot. Every firing is ablated, but of each feature `at_most` where that is given, drawn at random; those on the last token of
    a context are left out."""
    readout = readout_or_raise(source)
    u = readout.centre(W_dec.float() @ readout.W_out)
    pairs = pairs_of(firings, split.context_length)
    if at_most is not None:
        pairs = drawn(pairs, at_most)
    n = np.maximum(np.bincount(pairs.feature, minlength=firings.n_features), 1)
    size = max(1, memory // (8 * source.n_vocab))
    for begin in range(0, firings.n_features, size):
        end = min(begin + size, firings.n_features)
        change = summed(source, readout, split, pairs.of(slice(begin, end)), u[begin:end], contexts_per_batch)
        change /= n[begin:end, None].astype(np.float32)
        yield Effects(begin, change)
        del change  # before the next ones are made


def drawn(pairs: Pairs, n: int) -> Pairs:
    """Of each feature at most `n`, drawn at random, the same whatever batches they are read in; by token."""
    feature = pairs.feature.astype(np.int64)
    order = np.lexsort((scramble(pairs.token + feature * 2**32, 0, 0), feature))
    feature = feature[order]
    rank = np.arange(len(order)) - np.searchsorted(feature, feature)
    chosen = np.sort(order[rank < n])
    return Pairs(*(part[chosen] for part in pairs))


def summed(
    source: ActivationSource, readout: Readout, split: Split, pairs: Pairs, u: torch.Tensor, contexts_per_batch: int
) -> Float[ndarray, "unit vocab"]:
    """Σ over the pairs of each direction of what its ablation takes from the probability of each token, float32."""
    v = (u @ readout.W_U).contiguous().numpy()
    total, length = np.zeros(v.shape, np.float32), split.context_length
    limit = int(pairs.token.max(initial=0)) // length + 1
    for batch in batches(source, split, limit, label="effects", contexts_per_batch=contexts_per_batch, skip_bos=False):
        first = batch.first * length
        start, stop = np.searchsorted(pairs.token, [first, first + batch.tokens.numel()])
        order = np.argsort(pairs.feature[start:stop], kind="stable")
        feature, token, value = (part[start:stop][order] for part in (pairs.feature, pairs.token, pairs.value))
        residual = readout.centre(readout.residual(batch.tokens).flatten(0, 1))
        add_batch(readout, residual, feature, token - first, value, u, v, total)
    return total


def add_batch(
    readout: Readout,
    residual: torch.Tensor,
    feature: ndarray,
    row: ndarray,
    value: ndarray,
    u: torch.Tensor,
    v: Float[ndarray, "unit vocab"],
    total: Float[ndarray, "unit vocab"],
) -> None:
    """Those of one batch, which are sorted by feature; `residual` [row, d_model] is centred."""
    g = (residual @ readout.W_U).numpy()
    shared = (residual.contiguous().numpy(), g, u.contiguous().numpy(), v, readout.bias.contiguous().numpy())
    norm = (readout.eps, readout.norm != "none")
    reference, probability = np.empty(len(g), np.float32), np.empty_like(g)

    def clean(block: int) -> None:
        begin = block * THREAD_ROWS
        clean_probabilities(begin, min(begin + THREAD_ROWS, len(g)), *shared, *norm, reference, probability)

    for_blocks(clean, -(-len(g) // THREAD_ROWS))
    start = np.searchsorted(feature, np.arange(len(v) + 1))

    def work(block: int) -> None:
        begin = block * THREAD_FEATURES
        end = min(begin + THREAD_FEATURES, len(v))
        add_effects(begin, end, start, row, value, *shared, *norm, reference, probability, total)

    for_blocks(work, -(-len(v) // THREAD_FEATURES))
