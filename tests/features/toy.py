"""A toy transformer, a random dictionary on it and a small token store, with everything that fires as a dense array."""

import numpy as np
import torch

from sae.dictionary.tied_relu import TiedBiasDictionary
from tests.support.stores import make_tokens
from tests.support.toy_source import ToySource


def random_dictionary(n_features=24, d_mlp=16, seed=1, bias=-1.0):
    """Sparse enough to be interesting: about a quarter of the entries fire."""
    g = torch.Generator().manual_seed(seed)
    W_dec = torch.nn.functional.normalize(torch.randn(n_features, d_mlp, generator=g), dim=1)
    W_enc = W_dec + 0.1 * torch.randn(n_features, d_mlp, generator=g)
    return TiedBiasDictionary(W_enc, torch.full((n_features,), bias), W_dec, torch.full((d_mlp,), 0.5))


def setup(path, **options):
    """Source, dictionary (feature 3 never fires, feature 5 always does), and a token store with repeated documents."""
    source, dictionary = ToySource(), random_dictionary()
    dictionary.b_enc[3], dictionary.b_enc[5] = -1e3, 100.0
    return source, dictionary, make_tokens(path / "tokens", **options)


def dense(source, dictionary, contexts):
    """Activations x [row, d_mlp] and f [row, feature] float64 over all positions but BOS, and each row's place."""
    tokens = torch.from_numpy(contexts.tokens.astype(np.int64))
    kept = contexts.document.ravel() >= 0
    x = source.activations(tokens).flatten(0, 1).numpy()[kept]
    weights = [getattr(dictionary, name).numpy().astype(np.float64) for name in ("W_enc", "b_enc", "b_dec")]
    f = np.maximum((x - weights[2]) @ weights[0].T + weights[1], 0)
    return x.astype(np.float64), f, np.flatnonzero(kept)
