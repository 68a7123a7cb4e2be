"""Steps of contexts in which different positions count, beside a walk through each."""

import numpy as np
import pytest
from scipy.stats import hypergeom

from sae import artefact
from sae.automata.edges import AutomataConfig, find_automata
from sae.automata.transitions import steps_of
from sae.errors import CorpusError
from sae.features.firings import Firings
from sae.features.together import Text
from sae.provenance import Run
from sae.source.contexts import TokensConfig
from sae.source.ids import contexts_of_ids
from sae.storage.tokens import TokenStore
from tests.features.toy import random_dictionary
from tests.support.toy_source import ToySource

N, LENGTH, M = 30, 12, 5
ALWAYS, FIRST_HALF, SECOND_HALF = 2, 3, 4
"""A feature that fires everywhere, and two that never fire in the same context."""


def text_of(kept, f):
    feature, token = np.nonzero(f.reshape(-1, M).T)
    start = np.searchsorted(feature, np.arange(M + 1))
    firings = Firings(M, feature, token.astype(np.int32), np.ones(len(token), np.float32), start)
    return Text(np.zeros(kept.shape, np.uint16), kept, (firings,)), firings


@pytest.fixture(scope="module")
def case():
    """Contexts of all lengths, with gaps; the first has no step, the second has one."""
    rng = np.random.default_rng(0)
    kept = (np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (N, 1))) & (rng.random((N, LENGTH)) < 0.9)
    kept[0], kept[1] = np.arange(LENGTH) % 2 == 0, np.arange(LENGTH) < 2
    f = rng.random((N, LENGTH, M)) < 0.5
    f[..., ALWAYS] = True
    f[: N // 2, :, SECOND_HALF] = f[N // 2 :, :, FIRST_HALF] = False
    f &= kept[..., None]
    return kept, f, *text_of(kept, f)


def test_counts_and_the_null_are_those_of_each_context(case):
    kept, f, text, firings = case
    steps = steps_of(text, firings, np.random.default_rng(1))
    found = steps.rows(0, M)
    n, mean, variance = (np.zeros((M, M)) for _ in range(3))
    n_steps, seconds = 0, np.zeros(M)
    for context in range(N):
        at = [t for t in range(LENGTH - 1) if kept[context, t] and kept[context, t + 1]]
        first, second = f[context, at].astype(int), f[context, [t + 1 for t in at]].astype(int)
        n_steps, seconds = n_steps + len(at), seconds + second.sum(0)
        n += first.T @ second
        if len(at) > 1:
            with np.errstate(all="ignore"):  # scipy's higher moments, which nobody asked for
                null = hypergeom(len(at), first.sum(0)[:, None], second.sum(0)[None])
                mean, variance = mean + null.mean(), variance + np.nan_to_num(null.var())
        elif at:
            mean += first.T @ second
    assert steps.n_steps == n_steps
    np.testing.assert_array_equal(found.n, n)
    np.testing.assert_allclose(found.expected, mean, rtol=1e-6)
    np.testing.assert_allclose(found.deviation**2, variance, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.shuffled[ALWAYS], seconds)
    assert found.shuffled[FIRST_HALF, SECOND_HALF] == 0, "seconds stay in their context"
    assert (found.shuffled != n).any()


def test_without_two_neighbours_that_count_it_is_said():
    kept = np.tile(np.arange(LENGTH) % 2 == 0, (3, 1))
    with pytest.raises(CorpusError, match="no two neighbours that count"):
        steps_of(*text_of(kept, np.zeros((3, LENGTH, M), bool)), np.random.default_rng(0))


def test_automata_of_padded_contexts(tmp_path):
    """Of which each has another length, as those of a model over characters."""
    rng = np.random.default_rng(0)
    ids = np.where(np.arange(16) < rng.integers(3, 17, (60, 1)), rng.integers(1, 50, (60, 16)), 0)
    np.save(tmp_path / "ids.npy", ids)
    with artefact.writing(tmp_path / "tokens", Run(kind="tokens", code="test")) as draft:
        contexts_of_ids(TokensConfig(source="ids", path=str(tmp_path / "ids.npy"), n_vocab=None, pad=0), draft.path)
    tokens = TokenStore.open(tmp_path / "tokens")
    split = tokens.split("heldout")
    kept = split[0 : split.n_contexts].kept()
    config = AutomataConfig(n_tokens=10_000, min_count=2, contexts_per_batch=3)
    found = find_automata(ToySource(), random_dictionary(), tokens, config)
    assert found.n_tokens == kept.sum()
    assert found.n_steps == (kept[:, :-1] & kept[:, 1:]).sum()
    assert np.isfinite(found.pairs.expected).all()
