"""One unit in words: its grams and followers by loops, its scores those of the survey, intervals by documents drawn again."""

import numpy as np
import pytest
from scipy import stats

from sae.chance import generator
from sae.interpret.config import InterpretConfig
from sae.interpret.rules import Scores
from sae.interpret.survey import prepare, survey
from sae.interpret.unit import in_words, scores_of, unit_told
from tests.interpret.corpus import N_VOCAB, contexts, evidence
from tests.support.chosen import assert_largest

CONFIG = InterpretConfig(min_count=3, window=4, n_bootstrap=10)
VOCABULARY = [f"<{i}>".encode() for i in range(N_VOCAB)]
ONE, PAIR, NOISY, DEAD = range(4)


@pytest.fixture(scope="module")
def case():
    text = contexts(150)
    flat, document = text.tokens.ravel().astype(int), text.document.ravel()
    before = np.where(np.roll(document, 1) == document, np.roll(flat, 1), 0)
    dense = np.zeros((flat.size, 4))
    dense[:, ONE] = 2.0 * (flat == 3)
    dense[:, PAIR] = (flat == 5) & (before == 4)
    dense[:, NOISY] = (flat == 6) * np.random.default_rng(0).random(flat.size)
    dense = np.where(document[:, None] >= 0, dense, 0).astype(np.float32)
    known = evidence(dense, text)
    return known, dense, prepare(known, CONFIG, N_VOCAB)


def test_the_grams_that_say_most_come_first(case):
    told = unit_told(case[-1], "features", ONE)
    first = told.rules["token"].lines[0]
    assert (first.tokens, first.mean, first.rate) == ((3,), 2.0, 1.0)
    assert len(told.rules["token"].lines) == 2  # and of any token, which is less
    assert told.rules["token"].lines[1].tokens == ()
    pair = unit_told(case[-1], "features", PAIR).rules["ngram"].lines
    known, dense, _ = case
    flat = known.contexts.tokens.ravel()
    at = [t for t in np.flatnonzero(known.fitting) if flat[t] == 5 and flat[t - 1] == 4 and dense[t, PAIR] > 0]
    assert (pair[0].tokens[-2:], pair[0].rate) == ((4, 5), 1.0)
    assert {line.tokens: line.n for line in pair if len(line.tokens) == 2} in ({(4, 5): len(at)}, {})
    means = [line.mean for line in pair]
    assert means == sorted(means, reverse=True)
    assert not any(long.tokens[1:] == short.tokens for i, short in enumerate(pair) for long in pair[i:] if short.tokens)


def test_what_follows_by_loops(case):
    known, dense, prepared = case
    told = unit_told(prepared, "features", ONE)
    flat, document = known.contexts.tokens.ravel(), known.contexts.document.ravel()
    pairs = [t for t in np.flatnonzero(known.fitting)[:-1] if (t + 1) % 17 and document[t + 1] == document[t]]
    often = np.zeros(N_VOCAB)
    share = np.zeros(N_VOCAB)
    for t in pairs:
        often[flat[t + 1]] += dense[t, ONE]
        share[flat[t + 1]] += 1 / len(pairs)
    # the rule predicts what the unit does here, as its gram is the token
    lift = np.divide(often, share, out=np.zeros(N_VOCAB), where=share > 0)
    assert_largest(told.rules["token"].after, lift, 8, atol=1e-5 * lift.max())


@pytest.mark.parametrize("unit", [ONE, PAIR, NOISY])
def test_scores_are_the_surveys(case, unit):
    known, dense, prepared = case
    found = survey(prepared, "features", np.arange(4), None)
    told = unit_told(prepared, "features", unit)
    assert told.n_scoring == found.n_active[unit] == (dense[known.scoring, unit] > 0).sum()
    assert told.n_fitting == (dense[known.fitting, unit] > 0).sum()
    assert told.single_token == found.single_token[unit]
    for rule in ("token", "ngram"):
        scores = Scores(*found.scores[rule][unit, 0])
        for name, each in told.rules[rule].scores.items():
            assert each.value == pytest.approx(getattr(scores, name))
            assert each.low <= each.value + 1e-9
            assert each.value <= each.high + 1e-9
            assert each.high - each.low < 0.6


def test_intervals_are_of_documents_drawn_again():
    """Against arrays in which each drawn document stands as often as it was drawn."""
    rng = np.random.default_rng(3)
    document = np.repeat(np.arange(12), 10) + 5
    truth = np.maximum(rng.normal(size=120), 0)
    predicted = np.round(truth + rng.normal(size=120), 1)
    said = predicted > 0.2
    found = scores_of(predicted, said, truth, document, n_bootstrap=60)
    drawing, slow = generator(0, "documents of a unit"), []
    for _ in range(60):
        at = np.concatenate([np.flatnonzero(document == 5 + i) for i in drawing.integers(0, 12, 12)])
        x, y, fires = predicted[at], truth[at], truth[at] > 0
        u = stats.mannwhitneyu(x[fires], x[~fires]).statistic / (fires.sum() * (~fires).sum())
        accuracy = (said[at][fires].mean() + 1 - said[at][~fires].mean()) / 2
        slow.append((stats.spearmanr(x, y).statistic, u, accuracy))
    low, high = np.quantile(slow, [0.025, 0.975], axis=0)
    assert [each.low for each in found.values()] == pytest.approx(low.tolist())
    assert [each.high for each in found.values()] == pytest.approx(high.tolist())
    assert [each.chance for each in found.values()] == [0, 0.5, 0.5]


def test_in_words_nothing_of_the_corpus_is_let_through(case):
    evil = [*VOCABULARY]
    evil[3] = b"\x1b[31m\n"
    words = in_words(unit_told(case[-1], "features", ONE), "A/1/0", evil)
    assert "\x1b" not in words
    assert "'\\x1b[31m↵'" in words
    assert "all top examples of one token" in words
    dead = in_words(unit_told(case[-1], "features", DEAD), "A/1/3", VOCABULARY)
    assert "fires on 0 tokens to fit, 0 of other documents" in dead
    assert "token_auc        nan" in dead
