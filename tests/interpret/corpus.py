"""A text of small numbers in contexts of several documents, and units whose activations are known functions of it."""

import numpy as np

from sae.features.firings import Firings
from sae.interpret.evidence import Evidence, side
from sae.storage.tokens import Contexts

BOS, N_VOCAB = 0, 12


def contexts(n_contexts=60, length=17, seed=0):
    """Documents of 8 tokens, two a context, after BOS."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, N_VOCAB, (n_contexts, length)).astype(np.uint16)
    tokens[:, 0] = BOS
    document = np.arange(n_contexts)[:, None] * 2 + (np.arange(length) > length // 2)[None]
    document[:, 0] = -1
    return Contexts.whole(tokens, document.astype(np.int32), np.zeros(tokens.shape, np.int16))


def firings(dense):
    """From activations [token, unit]."""
    unit, token = np.nonzero(dense.T)
    value = dense.T[unit, token].astype(np.float32)
    start = np.searchsorted(unit, np.arange(dense.shape[1] + 1))
    return Firings(dense.shape[1], unit.astype(np.uint16), token.astype(np.int32), value, start)


def evidence(dense, text, seed=0):
    """Both populations fire as `dense` says."""
    fitting = side(text, seed)
    fired = firings(dense)
    scoring = ~fitting & (text.document.ravel() >= 0)
    return Evidence(text, {"features": fired, "neurons": fired}, fitting, scoring)
