"""Log-likelihood ratios against closed forms and against every substring tried."""

import math

import numpy as np
import pytest

from sae.errors import ConfigError, CorpusError
from sae.proxies.hypotheses import HYPOTHESES
from sae.proxies.likelihood import Alphabet, continues, max_over_substrings
from sae.proxies.sampling import Statistics, choose_contexts, log_probabilities, measure, read_contexts
from sae.storage.tokens import Contexts
from tests.proxies.corpora import write_store

EMPTY = Contexts.whole(*[np.zeros((0, 4), np.int64)] * 3)


def every_substring(weights: np.ndarray, document: np.ndarray, min_tokens: int) -> np.ndarray:
    """The definition, one substring after the other."""
    scores = np.full(weights.shape, np.nan)
    for c in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            if document[c, j] == -1:
                continue
            best = -math.inf
            for start in range(j + 1):
                inside = document[c, start : j + 1]
                if j + 1 - start >= min_tokens and len(set(inside.tolist())) == 1:
                    best = max(best, sum(float(w) for w in weights[c, start : j + 1]))
            scores[c, j] = best
    return scores


@pytest.mark.parametrize("min_tokens", [1, 2, 3])
def test_best_substring_is_the_best_of_all(min_tokens: int):
    rng = np.random.default_rng(min_tokens)
    weights = rng.normal(0.0, 3.0, (40, 17))
    document = np.repeat(rng.integers(-1, 3, (40, 6)), 3, axis=1)[:, :17]  # BOS in the middle and edges of documents too
    got = max_over_substrings(weights, document, min_tokens)
    wanted = every_substring(weights, document, min_tokens)
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
    assert np.isnan(got[document == -1]).all()


def test_worked_by_hand():
    weights = np.array([[9.0, 1.0, -3.0, 2.0, 4.0, -7.0]])
    document = np.array([[-1, 0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(max_over_substrings(weights, document), [[np.nan, 1.0, -2.0, 2.0, 4.0, -3.0]])
    two = [[np.nan, -np.inf, -2.0, 0.0, -np.inf, -3.0]]  # position 3: (-3, 2) = -1 or (1, -3, 2) = 0
    np.testing.assert_array_equal(max_over_substrings(weights, document, 2), two)


def test_bos_ends_a_substring_even_between_parts_of_one_document():
    document = np.array([[0, -1, 0, 0]])
    assert continues(document).tolist() == [[False, False, False, True]]


def test_weights_in_closed_form():
    vocabulary = [b"AC", b"a=", b"\xd8", "é".encode(), b" "]
    p = np.array([0.1, 0.2, 0.3, 0.15, 0.25])
    weights = Alphabet(characters="ACGT").weights(Statistics(vocabulary, np.log(p), EMPTY))
    outside = math.log(1e-10)
    characters_outside = [0, 2, 1, 1, 1]  # half a character, and two bytes of one, are one character each
    wanted = np.array(characters_outside) * outside - np.array([2, 0, 0, 0, 0]) * math.log(4) - np.log(p)
    np.testing.assert_allclose(weights, wanted, rtol=1e-12)


def test_two_character_token_is_base64_up_to_a_known_probability():
    """method.md A6: two characters are more likely base64 than chance iff p < 64^-2 = 2.4e-4."""
    for p, positive in ((2.4e-4, True), (2.5e-4, False)):
        weights = HYPOTHESES["base64"].proxy.weights(Statistics([b"q9"], np.log([p]), EMPTY))
        assert (weights[0] > 0) == positive


def test_dna_needs_two_tokens(tmp_path):
    vocabulary = [b"CA", b"T", b"the", b"<bos>"]
    store = write_store(tmp_path / "tokens", vocabulary, [("english", [2, 0, 1, 2] * 6)], [("dna", [0, 1, 2, 0])])
    score = HYPOTHESES["dna"].proxy.scorer(measure(store, 100, 0))
    heldout = store.split("heldout")[0:1]
    scores = score(heldout)
    # CA and T are a quarter each (6.5 of 26), `the` a half (12.5 of 26), up to the smoothing of four tokens' half counts.
    ca, t = -2 * math.log(4) - math.log(6.5 / 26), -math.log(4) - math.log(6.5 / 26)
    the = 3 * math.log(1e-10) - math.log(12.5 / 26)
    assert np.isnan(scores[0, 0])
    assert scores[0, 1] == -np.inf
    np.testing.assert_allclose(scores[0, 2:5], [ca + t, the + max(t, ca + t), ca + the + max(0, t, ca + t)], rtol=1e-12)


def test_unseen_token_has_half_a_count():
    np.testing.assert_allclose(np.exp(log_probabilities(np.array([7, 0, 2]))), np.array([7.5, 0.5, 2.5]) / 10.5)


def test_unigram_is_of_train_documents_only(tmp_path):
    vocabulary = [b"a", b"b", b"<bos>"]
    store = write_store(tmp_path / "tokens", vocabulary, [("english", [0, 0, 0, 1])], [("english", [1, 1, 1, 1])])
    np.testing.assert_allclose(np.exp(measure(store, 10, 0).log_unigram), [3.5 / 5.5, 1.5 / 5.5, 0.5 / 5.5])


def test_empty_train_split_says_so(tmp_path):
    store = write_store(tmp_path / "tokens", [b"a", b"<bos>"], [("english", [])], [("english", [0])])
    with pytest.raises(CorpusError, match=r"train split .* holds no tokens"):
        measure(store, 10, 0)


def test_contexts_are_chosen_at_random_with_a_seed(tmp_path):
    documents = [("english", [i % 3] * 8) for i in range(50)]
    split = write_store(tmp_path / "tokens", [b"a", b"b", b"c", b"<bos>"], documents, documents[:1]).split("train")
    chosen = choose_contexts(split, 90, seed=5)
    assert chosen.sum() == 10
    assert (chosen == choose_contexts(split, 90, seed=5)).all()
    assert (chosen != choose_contexts(split, 90, seed=6)).any()
    assert choose_contexts(split, 10**9, seed=5).all()
    parts = list(read_contexts(split, chosen, block=7))
    np.testing.assert_array_equal(np.concatenate([part.document[:, 1] for part in parts]), np.flatnonzero(chosen))


def test_alphabet_without_characters_is_refused():
    with pytest.raises(ConfigError, match="needs characters"):
        Alphabet(characters="")
