"""A toy transformer, a random dictionary on it and a small token store, with everything that fires as a dense array."""

import numpy as np
import torch

from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.features.table import COLUMNS
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


def assert_alike(table, expected, source, dictionary, contexts):
    """Two tables of one pass, whose activations may differ in their last bits: the order of two that nearly tie, and the interval
    of one at its edge, are rounding's. All else is the same, and examples are what they are said to be."""
    for name in COLUMNS.keys() - {"histogram", "logit_histogram"}:
        if not name.startswith("example_") and not name.endswith("_ids"):
            np.testing.assert_allclose(table[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
        if name.endswith("_ids"):
            values = expected[name.replace("_ids", "_values")]
            for feature, slot in zip(*np.nonzero(table[name] != expected[name]), strict=True):
                gaps = abs(np.delete(values[feature], slot) - values[feature, slot])
                assert slot == values.shape[1] - 1 or gaps.min() < 1e-5, f"{name} of {feature} at {slot}"
    for name in ("histogram", "logit_histogram"):
        assert abs(table[name] - expected[name]).sum(1).max() <= 4, name
    f = np.zeros((contexts.tokens.size, dictionary.n_features))
    _, fired, kept = dense(source, dictionary, contexts)
    f[kept] = fired
    filled = table["example_interval"] >= 0
    at = table["example_context"][filled] * contexts.tokens.shape[1] + table["example_position"][filled]
    np.testing.assert_allclose(table["example_peak"][filled], f[at, np.nonzero(filled)[0]], rtol=1e-5)
    assert (table["example_tokens"][filled][:, table.window] == contexts.tokens.ravel()[at]).all()
    scaled = f / np.maximum(f.max(0), 1e-9) * table.info.n_intervals
    edge = scaled.round()
    at_an_edge = ((edge > 0) & (edge < table.info.n_intervals) & (abs(scaled - edge) < 1e-4)).any(0)
    assert at_an_edge.mean() < 0.5
    for name, rtol in (("example_interval", 0), ("example_peak", 1e-5)):
        np.testing.assert_allclose(table[name][~at_an_edge], expected[name][~at_an_edge], rtol=rtol, err_msg=name)
