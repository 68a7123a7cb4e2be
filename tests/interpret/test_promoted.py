"""The logit test: what follows is counted by loops, and a rule whose followers are the promoted tokens gets all of them."""

import numpy as np
import pytest
import torch

from sae.interpret import promoted
from sae.interpret.grams import find_grams
from tests.interpret.corpus import N_VOCAB, contexts, evidence
from tests.support.toy_source import ToySource


class Source(ToySource):
    """Logit weights are the directions themselves."""

    def logit_weights(self, directions, inverse_scale):
        return directions * inverse_scale


def test_what_follows_by_loops():
    text = contexts(40)
    known = evidence(np.zeros((text.tokens.size, 1), np.float32), text)
    grams = find_grams(text, known.fitting, 2, 2)
    mean = np.random.default_rng(0).random((3, len(grams.size))).astype(np.float32)
    flat, document = text.tokens.ravel(), text.document.ravel()
    pairs = [t for t in range(flat.size - 1) if known.fitting[t] and (t + 1) % 17 and document[t + 1] == document[t]]
    found = promoted.follow(promoted.followers(known, grams, N_VOCAB), mean)
    for unit in range(3):
        seen = np.zeros(N_VOCAB)
        for t in pairs:
            seen[flat[t + 1]] += mean[unit, grams.leaf[t]]
        assert found[unit] == pytest.approx(seen, rel=1e-5)


def test_candidates_have_the_ranks_of_the_paper():
    weights = torch.from_numpy(np.random.default_rng(0).permuted(np.tile(np.arange(300.0), (4, 1)), axis=1)).float()
    allowed = np.arange(300) % 10 > 0
    found = promoted.choose_candidates(Source(), weights, 1.0, allowed, np.random.default_rng(1))
    for unit in range(4):
        own = weights[unit].numpy()
        rank = (own[allowed] > own[:, None]).sum(1)  # of whole numbers, none of them twice
        chosen, others = (found.ids[unit, which] for which in (found.promoted[unit], ~found.promoted[unit]))
        assert sorted(rank[chosen]) == list(range(10, 60))
        assert len(set(others)) == 50
        assert rank[others].min() >= 60
        assert allowed[found.ids[unit]].all()
    assert promoted.choose_candidates(Source(), weights, 1.0, np.arange(300) < 109, np.random.default_rng(1)) is None


def test_perfect_inverted_and_constant_predictions():
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(400)[:100] for _ in range(200)])
    labels = rng.permuted(np.tile(np.arange(100) < 50, (200, 1)), axis=1)
    candidates = promoted.Candidates(ids, labels)
    scores = np.zeros((200, 400))
    np.put_along_axis(scores, ids, labels.astype(float), axis=1)
    for values, expected in ((scores, 1.0), (-scores, 0.0)):
        found = promoted.score_candidates(values, candidates)
        assert (found.accuracy == expected).all()
        assert (found.auc == expected).all()
    constant = promoted.score_candidates(np.zeros((200, 400)), candidates)
    assert constant.accuracy.mean() == pytest.approx(0.5, abs=0.02)
    assert (constant.auc == 0.5).all()
    assert promoted.score_candidates(scores[[7]], candidates, np.array([7])).accuracy[0] == 1
