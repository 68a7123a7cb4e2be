"""Rules of known units; every score against a dense version with scipy; the baselines where they must be."""

import numpy as np
import pytest
from scipy import stats

from sae.interpret.config import InterpretConfig
from sae.interpret.grams import find_grams
from sae.interpret.rules import CHANCE, Scores
from sae.interpret.survey import AGAINST, prepare, survey
from sae.interpret.truth import digits, draw
from tests.interpret.corpus import N_VOCAB, contexts, evidence

CONFIG = InterpretConfig(min_count=3, window=4, n_intervals=4, per_interval=5, n_silent=20, n_top=5)
TOKEN, PAIR, NOISE, ONE, DEAD, SPARSE = range(6)


@pytest.fixture(scope="module")
def case():
    text = contexts(200)
    flat, document = text.tokens.ravel().astype(int), text.document.ravel()
    rng = np.random.default_rng(1)
    before = np.where(np.roll(document, 1) == document, np.roll(flat, 1), 0)
    dense = np.zeros((flat.size, 6))
    dense[:, TOKEN] = np.maximum(flat - 6, 0)
    dense[:, PAIR] = np.maximum(flat + before - 14, 0) * (before > 0)
    dense[:, NOISE] = np.maximum(rng.normal(size=flat.size), 0)
    dense[:, ONE] = flat == 3
    dense[:, SPARSE] = (flat == 5) * (rng.random(flat.size) < 0.5) * rng.random(flat.size)
    dense = np.where(document[:, None] >= 0, dense, 0).astype(np.float32)
    known = evidence(dense, text)
    prepared = prepare(known, CONFIG, N_VOCAB)
    return known, dense, prepared, survey(prepared, "features", np.arange(6), None)


def of(found, rule, unit, against=0):
    return Scores(*found.scores[rule][unit, against])


def test_a_unit_of_tokens_is_told_by_both_rules(case):
    found = case[-1]
    for rule in ("token", "ngram"):
        assert of(found, rule, ONE) == pytest.approx((1, 1, 1, 1, 1, 1))
        assert of(found, rule, TOKEN)._replace(spearman_sampled=1) == pytest.approx((1, 1, 1, 1, 1, 1))
        assert of(found, rule, TOKEN).spearman_sampled > 0.99  # the rounded digits of a maximum that float32 rounds


def test_a_unit_of_pairs_needs_the_pair(case):
    found = case[-1]
    assert of(found, "ngram", PAIR).spearman > 0.8  # a document's first token has no pair
    assert of(found, "token", PAIR).spearman < 0.6


def test_chance(case):
    found = case[-1]
    exact = [i for i, name in enumerate(Scores._fields) if name != "spearman_sampled"]  # 40 tokens say too little
    assert found.scores["token"][NOISE, 0, exact] == pytest.approx([CHANCE[i] for i in exact], abs=0.1)
    for rule in ("token", "ngram"):
        for unit in (TOKEN, PAIR, ONE):
            moved = found.scores[rule][unit, AGAINST.index("shuffled"), exact]
            assert moved == pytest.approx([CHANCE[i] for i in exact], abs=0.12), (rule, unit)
    dead = of(found, "token", DEAD)
    assert (dead.spearman, found.n_active[DEAD]) == (0, 0)
    assert np.isnan(dead.token_auc)


def test_single_token_units(case):
    assert case[-1].single_token.tolist() == [True, True, False, True, False, True]


@pytest.mark.parametrize("rule", ["token", "ngram"])
@pytest.mark.parametrize("unit", [TOKEN, PAIR, NOISE, SPARSE])
def test_scores_are_those_of_dense_arrays(case, rule, unit):
    known, dense, prepared, found = case
    grams = prepared.grams[rule]
    truth, fit, scored = dense[:, unit].astype(np.float64), known.fitting, known.scored
    mean = np.array([truth[fit & (grams.member == g).any(0)].mean() for g in range(len(grams.size))])
    rate = np.array([(truth[fit & (grams.member == g).any(0)] > 0).mean() for g in range(len(grams.size))])
    predicted, said = mean[grams.leaf], (rate > rate[0])[grams.leaf]
    fires = truth[scored] > 0
    assert of(found, rule, unit).spearman == pytest.approx(stats.spearmanr(predicted[scored], truth[scored]).statistic)
    u = stats.mannwhitneyu(predicted[scored][fires], predicted[scored][~fires]).statistic
    assert of(found, rule, unit).token_auc == pytest.approx(u / (fires.sum() * (~fires).sum()))
    expected = (said[scored][fires].mean() + 1 - said[scored][~fires].mean()) / 2
    assert of(found, rule, unit).token_accuracy == pytest.approx(expected)
    blocks, labels = {}, {}
    for mine in (True, False):
        documents = known.contexts.document[:, :16].reshape(-1, 4)
        whole = (documents.max(1, keepdims=True) == documents) | (documents == -1)
        at = np.arange(dense.shape[0]).reshape(-1, 17)[:, :16].reshape(-1, 4)[whole.all(1)]
        at = at[(fit if mine else ~fit)[at[:, -1]]]
        blocks[mine] = np.where(known.contexts.document.ravel()[at] >= 0, predicted[at], -1).max(1)
        labels[mine] = (truth[at] > 0).any(1)

    def accuracy(threshold, mine):
        said, label = blocks[mine] >= threshold, labels[mine]
        return (said[label].mean() + 1 - said[~label].mean()) / 2

    accuracies = {threshold: accuracy(threshold, True) for threshold in set(blocks[True])}
    best = [threshold for threshold, each in accuracies.items() if each > max(accuracies.values()) - 1e-9]
    told = of(found, rule, unit).window_accuracy
    assert any(told == pytest.approx(accuracy(threshold, False)) for threshold in best)  # of equals rounding picks one
    u = stats.mannwhitneyu(blocks[False][labels[False]], blocks[False][~labels[False]]).statistic
    assert of(found, rule, unit).window_auc == pytest.approx(u / (labels[False].sum() * (~labels[False]).sum()))


def test_another_units_rule_is_tried_on_each_unit_once(case):
    """The rule of `ONE` on `TOKEN` and so on: the scores of the cycle are those of the pairs that the shuffle made."""
    found = case[-1]
    other = found.scores["token"][:, 1, 0]
    assert (np.delete(np.abs(other), DEAD) < 0.95).all()
    assert other[DEAD] == 0


def test_no_document_is_on_both_sides(case):
    known = case[0]
    document = known.contexts.document.ravel()
    assert not set(document[known.fitting]) & set(document[known.scoring])
    assert not (document[known.fitting | known.scoring] == -1).any()
    grams = find_grams(known.contexts, known.fitting, 2, 3)
    assert grams.size[0] == known.fitting.sum()


def test_the_sample_stands_for_all_tokens():
    """Weights add up to the tokens of each level, so weighted counts of digits are unbiased; nobody is drawn twice."""
    rng = np.random.default_rng(0)
    value = np.zeros(2000, np.float32)
    place = np.sort(rng.choice(2000, 300, replace=False))
    value[place] = rng.exponential(size=300)
    sizes = {"n_intervals": 5, "per_interval": 8, "n_silent": 50}
    draws = [draw(place, value[place], rng.permutation(2000), **sizes, rng=np.random.default_rng(seed)) for seed in range(300)]
    for sample in draws:
        assert len(set(sample.place)) == len(sample.place)
        assert sample.weight.sum() == pytest.approx(2000)
        assert (value[sample.place] > 0).sum() == len(sample.place) - 50
        assert sample.digit.tolist() == digits(value[sample.place], float(value.max())).tolist()
    mean = np.mean([(sample.weight * value[sample.place]).sum() for sample in draws])
    assert mean == pytest.approx(value.sum(), rel=0.01)


def test_a_dense_unit_has_few_silent_tokens():
    place = np.arange(95)
    sample = draw(
        place, np.ones(95, np.float32), np.arange(100), n_intervals=2, per_interval=9, n_silent=10, rng=np.random.default_rng(0)
    )
    assert sorted(sample.place[sample.digit == 0]) == [95, 96, 97, 98, 99]
    assert sample.weight.sum() == pytest.approx(100)
