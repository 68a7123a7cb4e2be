"""Which tokens become examples, against a slow version, and what is shown around them."""

import numpy as np
import pytest

from sae.features.collect import collect
from sae.features.config import FeaturesConfig
from sae.features.examples import Choice, choose, example_columns
from sae.features.firings import Firings, interval_of
from tests.features.toy import dense, setup

CHOICE = Choice(n_top=30, n_intervals=5, per_interval=2, window=2, seed=0)


def firings_of(f):
    """Of a dense [token, feature]."""
    feature, token = np.nonzero(f.T > 0)
    start = np.searchsorted(feature, np.arange(f.shape[1] + 1))
    return Firings(f.shape[1], feature.astype(np.uint16), token.astype(np.int32), f[token, feature].astype(np.float32), start)


@pytest.fixture(scope="module")
def random():
    """Firings of 7 features over 400 tokens of 60 documents, multiples of 1/8 so that ties and edges are exact."""
    rng = np.random.default_rng(0)
    f = np.maximum(rng.integers(-60, 41, (400, 7)), 0) / 8
    f[:, 2] = 0
    f[0, :2] = 5.0
    return f, np.sort(rng.integers(0, 60, 400)).astype(np.int32)


def test_an_edge_belongs_to_one_interval_only():
    values = np.array([0.01, 1.0, 1.01, 2.0, 3.9, 4.0])
    assert interval_of(values, np.full(6, 4.0), 4).tolist() == [0, 0, 1, 1, 3, 3]


def test_top_examples_are_the_best_token_of_the_best_documents(random):
    f, document = random
    slots = choose(firings_of(f), f.max(0), document, CHOICE)
    firings = firings_of(f)
    for feature in range(7):
        best = {}
        for token in np.argsort(-f[:, feature], kind="stable"):
            if f[token, feature] > 0:
                best.setdefault(document[token], token)
        expected = sorted(best.values(), key=lambda token: (-f[token, feature], token))[:30]
        top = slots.firing[feature][slots.interval[feature] == 0]
        assert firings.token[top].tolist() == expected
    assert (slots.firing[2] == -1).all()
    assert (slots.interval[2] == -1).all()


def test_interval_examples_lie_in_their_interval_from_different_documents(random):
    f, document = random
    firings = firings_of(f)
    slots = choose(firings, f.max(0), document, CHOICE)
    for feature in (0, 1, 3, 4, 5, 6):
        width = f[:, feature].max() / 5
        for number in range(1, 6):
            chosen = slots.firing[feature][slots.interval[feature] == number]
            token = firings.token[chosen]
            high = f[:, feature].max() - (number - 1) * width
            inside = (f[:, feature] > high - width + 1e-9) & (f[:, feature] <= high + 1e-9)
            assert inside[token].all()
            assert len(set(document[token])) == len(token) == min(2, len(set(document[inside])))
            assert (np.diff(f[token, feature]) <= 0).all()


def test_the_draw_is_fair_and_seeded():
    """A thousand features that fire alike on 20 documents, once each at half the maximum: each document is drawn alike."""
    f = np.zeros((21, 1000))
    f[0], f[1:] = 1.0, 0.45
    document = np.arange(21)
    choice = Choice(n_top=1, n_intervals=2, per_interval=5, window=0, seed=0)
    firings = firings_of(f)
    drawn = choose(firings, f.max(0), document, choice).firing[:, 6:]
    counts = np.bincount(firings.token[drawn].ravel(), minlength=21)
    assert counts[0] == 0
    assert abs(counts[1:] - 250).max() < 5 * np.sqrt(250 * 0.75)
    again = choose(firings, f.max(0), document, choice).firing[:, 6:]
    other = choose(firings, f.max(0), document, choice._replace(seed=1)).firing[:, 6:]
    assert (drawn == again).all()
    assert (drawn != other).any()


def test_windows_stop_at_the_context_and_hold_this_features_activations():
    tokens = np.arange(10, 18, dtype=np.uint16).reshape(2, 4)
    document = np.array([[-1, 0, 0, 0], [-1, 1, 1, 1]], np.int32)
    f = np.zeros((8, 2))
    f[1, 0], f[2, 0], f[4, 1], f[7, 0] = 3.0, 1.0, 9.0, 2.0
    choice = Choice(n_top=2, n_intervals=1, per_interval=1, window=2, seed=0)
    columns = example_columns(firings_of(f), f.max(0).astype(np.float32), tokens, document, choice)
    assert columns["example_tokens"][0, 0].tolist() == [-1, 10, 11, 12, 13]
    assert columns["example_activations"][0, 0].tolist() == [0, 0, 3, 1, 0]
    assert columns["example_tokens"][0, 1].tolist() == [15, 16, 17, -1, -1]
    assert columns["example_activations"][0, 1].tolist() == [0, 0, 2, 0, 0]
    assert columns["example_context"][0, :2].tolist() == [0, 1]
    assert columns["example_position"][0, :2].tolist() == [1, 3]
    assert columns["example_document"][0, :2].tolist() == [0, 1]
    assert columns["example_peak"][0, :2].tolist() == [3, 2]
    assert columns["example_interval"][1].tolist() == [0, -1, 1]
    assert columns["example_tokens"][1, 1].tolist() == [-1] * 5
    assert columns["example_document"][1, 1] == -1


def test_activations_too_large_for_two_bytes_are_clipped_in_the_window_only():
    f = np.full((1, 1), 1e6)
    choice = Choice(n_top=1, n_intervals=1, per_interval=1, window=0, seed=0)
    columns = example_columns(
        firings_of(f), f.max(0).astype(np.float32), np.zeros((1, 1), np.uint16), np.zeros((1, 1), int), choice
    )
    assert columns["example_activations"].max() == np.finfo(np.float16).max
    assert columns["example_peak"][0, 0] == 1e6


def test_examples_of_a_real_pass_hold_what_the_dictionary_says(tmp_path, monkeypatch):
    source, dictionary, tokens = setup(tmp_path)
    config = FeaturesConfig(n_tokens=320, n_top=5, window=4, logit_min_count=0)
    table = collect(source, dictionary, tokens, config)
    contexts = tokens.split("heldout")[0:20]
    _, f, place = dense(source, dictionary, contexts)
    activation = np.zeros((contexts.tokens.size, f.shape[1]))
    activation[place] = f
    activation = activation.reshape(*contexts.tokens.shape, -1)
    monkeypatch.setattr("sae.features.examples.CHUNK_FEATURES", 5)
    chunked = collect(source, dictionary, tokens, config)
    np.testing.assert_array_equal(chunked["example_activations"], table["example_activations"])
    np.testing.assert_array_equal(chunked["example_tokens"], table["example_tokens"])
    for feature, slot in zip(*np.nonzero(table["example_interval"] >= 0), strict=True):
        c, p = table["example_context"][feature, slot], table["example_position"][feature, slot]
        assert table["example_peak"][feature, slot] == pytest.approx(activation[c, p, feature], rel=1e-4)
        assert table["example_document"][feature, slot] == contexts.document[c, p]
        for offset in range(-4, 5):
            inside = 0 <= p + offset < contexts.tokens.shape[1]
            expected = contexts.tokens[c, p + offset] if inside else -1
            assert table["example_tokens"][feature, slot, 4 + offset] == expected
            value = activation[c, p + offset, feature] if inside else 0
            assert table["example_activations"][feature, slot, 4 + offset] == pytest.approx(value, rel=1e-3, abs=1e-6)
