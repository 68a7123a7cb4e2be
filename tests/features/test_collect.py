"""Every column against a slow version with loops over a dense array; what the pass refuses."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from sae.errors import ConfigError, NumericsError
from sae.features.collect import collect
from sae.features.config import FeaturesConfig
from sae.features.logits import allowed_tokens, logit_columns
from sae.features.table import COLUMNS
from tests.features.toy import assert_alike, dense, setup
from tests.support.chosen import assert_largest

CONFIG = FeaturesConfig(n_tokens=1000, n_top=6, n_intervals=4, examples_per_interval=2, window=3, logit_min_count=18)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    source, dictionary, tokens = setup(tmp_path_factory.mktemp("toy"), n_heldout=24)
    table = collect(source, dictionary, tokens, CONFIG)
    split = tokens.split("heldout")
    contexts = split[0 : split.n_contexts]
    return source, dictionary, tokens, contexts, table, *dense(source, dictionary, contexts)


def test_activation_columns(made):
    _, _, tokens, contexts, table, _, f, place = made
    assert table.n_tokens == len(f) == 24 * 15
    kind = contexts.kind.ravel()[place]
    for feature in range(f.shape[1]):
        fired = f[:, feature][f[:, feature] > 0]
        assert table["n_active"][feature] == len(fired)
        assert table["density"][feature] == pytest.approx(len(fired) / len(f))
        assert table["max_activation"][feature] == pytest.approx(fired.max(initial=0), rel=1e-5)
        assert table["mean_activation"][feature] == pytest.approx(fired.mean() if len(fired) else 0, rel=1e-5)
        counts = [int(((f[:, feature] > 0) & (kind == k)).sum()) for k in range(len(tokens.kinds))]
        assert table["kind_counts"][feature].tolist() == counts
    assert table.info.kind_tokens == tuple((kind == k).sum() for k in range(3))
    assert (table["n_active"][3], table["max_activation"][3], table["density"][5]) == (0, 0, 1)


def test_histogram(made):
    """Bins (lower, upper] of the float32 values that the pass itself found, the last one holding the maximum."""
    *_, table, _, f, _ = made
    for feature in (0, 1, 5):
        values = f[:, feature][f[:, feature] > 0].astype(np.float32)
        maximum = table["max_activation"][feature]
        expected = [sum(maximum * b / 50 < v <= maximum * (b + 1) / 50 for v in values) for b in range(49)]
        assert abs(table["histogram"][feature][:49] - expected).sum() <= 2  # a value at an edge may round across it
        assert table["histogram"][feature].sum() == len(values)
        assert table["histogram"][feature][49] > 0
    assert table["histogram"][3].sum() == 0


def test_correlations_are_exact(made):
    *_, table, x, f, _ = made
    for feature in range(f.shape[1]):
        if feature == 3:
            continue
        r = np.array([np.corrcoef(f[:, feature], x[:, neuron])[0, 1] for neuron in range(x.shape[1])])
        best = np.argsort(-r, kind="stable")[:5]
        np.testing.assert_allclose(table["neuron_correlated_values"][feature], r[best], atol=5e-6)
        assert_largest(table["neuron_correlated_ids"][feature], r, 5, atol=1e-5)
    assert table["neuron_correlated_ids"][3].tolist() == [-1] * 5


def test_coefficients_are_those_of_the_unit_vector(made):
    source, dictionary, tokens, *_ = made
    longer = type(dictionary)(dictionary.W_enc, dictionary.b_enc, 7 * dictionary.W_dec, dictionary.b_dec)
    table = collect(source, longer, tokens, CONFIG)
    W = dictionary.W_dec.numpy()
    for feature in range(len(W)):
        ids, values = table["neuron_coefficient_ids"][feature], table["neuron_coefficient_values"][feature]
        assert_largest(ids, abs(W[feature]), 5)
        np.testing.assert_allclose(values, W[feature][ids], rtol=1e-5)
        assert table["n_neurons_above_tenth"][feature] == (abs(W[feature]) >= 0.1).sum()
        assert table["participation_ratio"][feature] == pytest.approx((W[feature] ** 2).sum() ** 2 / (W[feature] ** 4).sum())


def test_logit_weights_are_made_some_features_at_a_time(made, monkeypatch):
    """Of a large vocabulary fewer, the least is one."""
    source, dictionary, tokens, *_ = made
    allowed, sizes = allowed_tokens(tokens, 0, source.n_vocab), []
    whole = logit_columns(source, dictionary.W_dec, 0.5, allowed)
    plain = source.logit_weights
    monkeypatch.setattr(source, "logit_weights", lambda *given: sizes.append(len(given[0])) or plain(*given))
    for most, size in ((7 * source.n_vocab, 7), (1, 1)):
        monkeypatch.setattr("sae.features.logits.MOST_WEIGHTS", most)
        sizes.clear()
        for name, values in logit_columns(source, dictionary.W_dec, 0.5, allowed).items():
            np.testing.assert_allclose(values, whole[name], rtol=1e-4, atol=1e-5, err_msg=name)
        assert max(sizes) == size


def test_logits_leave_out_rare_tokens(made):
    source, dictionary, tokens, contexts, table, *_ = made
    train = tokens.split("train")[0:10_000].tokens[:, 1:]
    allowed = np.flatnonzero(np.bincount(train.ravel(), minlength=50) >= 18)
    assert 20 < len(allowed) < 45  # some are left out, BOS among them
    assert table.info.n_logit_vocabulary == len(allowed)
    heldout = torch.from_numpy(contexts.tokens.astype(np.int64))
    inverse_scale = source.mean_inverse_scale(heldout)
    assert table.info.inverse_scale == pytest.approx(inverse_scale, rel=1e-5)
    weights = source.logit_weights(dictionary.W_dec, inverse_scale).numpy()[:, allowed]
    for feature in range(len(weights)):
        order = np.argsort(weights[feature])
        np.testing.assert_allclose(table["logit_bottom_values"][feature], weights[feature][order[:20]], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(table["logit_top_values"][feature], weights[feature][order[::-1][:20]], rtol=1e-4, atol=1e-5)
        found = np.searchsorted(allowed, table["logit_top_ids"][feature])
        assert (allowed[found] == table["logit_top_ids"][feature]).all()
        assert_largest(found, weights[feature], 20, atol=1e-5)
        low, high = table["logit_edges"][feature]
        np.testing.assert_allclose([low, high], [weights[feature].min(), weights[feature].max()], rtol=1e-4)
        assert table["logit_histogram"][feature].sum() == len(allowed)
        expected = np.histogram(weights[feature], bins=50, range=(low, high))[0]
        assert abs(table["logit_histogram"][feature] - expected).sum() <= 4


def test_fewer_tokens_and_neurons_than_slots_are_padded(made):
    source, dictionary, tokens, *_ = made
    table = collect(source, dictionary, tokens, dataclasses.replace(CONFIG, logit_min_count=10**6))
    assert (table["logit_top_ids"] == -1).all()
    assert table["logit_histogram"].sum() == 0


def test_directions_and_biases(made):
    _, dictionary, _, _, table, *_ = made
    np.testing.assert_array_equal(table["encoder_bias"], dictionary.b_enc.numpy())
    e, d = dictionary.W_enc.numpy().astype(np.float64), dictionary.W_dec.numpy().astype(np.float64)
    expected = [e[i] @ d[i] / math.sqrt(e[i] @ e[i]) / math.sqrt(d[i] @ d[i]) for i in range(len(e))]
    np.testing.assert_allclose(table["encoder_decoder_cosine"], expected, rtol=1e-6)


def test_two_passes_are_bit_identical_and_batches_do_not_matter(made):
    source, dictionary, tokens, contexts, table, *_ = made
    again = collect(source, dictionary, tokens, CONFIG)
    other = collect(source, dictionary, tokens, dataclasses.replace(CONFIG, contexts_per_batch=5))
    for name in COLUMNS:
        np.testing.assert_array_equal(again[name], table[name])
    assert_alike(other, table, source, dictionary, contexts)


def test_bos_counts_only_when_asked_for(made):
    source, dictionary, tokens, contexts, table, *_ = made
    with_bos = collect(source, dictionary, tokens, dataclasses.replace(CONFIG, skip_bos=False))
    assert with_bos.n_tokens == contexts.tokens.size
    assert with_bos["n_active"][5] == contexts.tokens.size
    assert with_bos["kind_counts"][5].tolist() == table["kind_counts"][5].tolist()  # BOS is in no document
    assert not (table["example_position"] == 0).any()


def test_whole_contexts_of_the_asked_size(made):
    source, dictionary, tokens, *_ = made
    assert collect(source, dictionary, tokens, dataclasses.replace(CONFIG, n_tokens=47)).info.n_contexts == 2
    assert collect(source, dictionary, tokens, dataclasses.replace(CONFIG, n_tokens=1)).info.n_contexts == 1


def test_a_budget_that_is_spent_says_what_would_do(made, monkeypatch):
    source, dictionary, tokens, *_ = made
    monkeypatch.setattr("sae.features.firings.BYTES_EACH", 2000)
    with pytest.raises(
        ConfigError,
        match=r"features.memory_mb leaves 0.9 for what fires, which is spent after \d+% of the tokens.*raise memory_mb",
    ):
        collect(source, dictionary, tokens, dataclasses.replace(CONFIG, memory_mb=1, contexts_per_batch=4))


def test_nan_in_activations_or_in_the_dictionary_stops_the_pass(made, monkeypatch):
    source, dictionary, tokens, *_ = made
    broken = type(dictionary)(dictionary.W_enc * float("nan"), dictionary.b_enc, dictionary.W_dec, dictionary.b_dec)
    with pytest.raises(NumericsError, match="the dictionary gives NaN"):
        collect(source, broken, tokens, CONFIG)
    monkeypatch.setattr(source, "activations", lambda tokens: torch.full((*tokens.shape, 16), float("inf")))
    with pytest.raises(NumericsError, match="contexts 0 to 15 hold NaN or infinity"):
        collect(source, dictionary, tokens, CONFIG)


@pytest.mark.parametrize(
    ("name", "value"), [("n_tokens", 0), ("n_intervals", 200), ("window", -1), ("memory_mb", 0), ("seed", -1), ("n_top", 0)]
)
def test_impossible_parameters(name, value):
    with pytest.raises(ConfigError, match=name):
        FeaturesConfig(**{name: value})
