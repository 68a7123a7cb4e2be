"""Find and report on a toy transformer: what is counted, and medians against numpy."""

import dataclasses

import numpy as np
import pytest

from sae.errors import ConfigError, CorpusError
from sae.interpret.config import InterpretConfig
from sae.interpret.evidence import side
from sae.interpret.report import columns, find, report
from sae.interpret.rules import CHANCE, Scores
from sae.interpret.truth import windows
from sae.metrics.intervals import median_interval
from tests.features.toy import dense, setup
from tests.interpret.corpus import contexts

CONFIG = InterpretConfig(n_tokens=4000, min_count=2, window=3, min_active=5, n_bootstrap=50)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    source, dictionary, tokens = setup(tmp_path_factory.mktemp("toy"), n_heldout=40)
    return source, dictionary, tokens, find(source, dictionary, tokens, CONFIG)


def test_units_are_counted_as_they_fire(made):
    source, dictionary, tokens, found = made
    split = tokens.split("heldout")
    x, f, _ = dense(source, dictionary, split[0 : split.n_contexts])
    facts = found.facts()
    assert facts["n_fitting"] + facts["n_scoring"] == len(f)
    words = report(found.populations, CONFIG)
    assert (words["features"]["n_units"], words["neurons"]["n_units"]) == (f.shape[1], x.shape[1])
    assert words["features"]["n_never_fired"] >= 1  # feature 3
    assert (words["features"]["n_scored"], words["features"]["sampled"]) == (f.shape[1], False)
    n_active = found.populations["features"].n_active
    assert ((n_active == 0) | (n_active <= (f > 0).sum(0))).all()
    assert words["features"]["n_all"] == (n_active >= 5).sum()
    assert words["features"]["n_single_token"] + words["features"]["n_others"] == words["features"]["n_all"]


def test_every_score_has_its_baselines(made):
    found = made[-1]
    for population in report(found.populations, CONFIG).values():
        for rule in ("token", "ngram"):
            for score, chance in zip(Scores._fields, CHANCE, strict=True):
                row = population["all"][rule][score]
                assert row.keys() == {"own", "other", "shuffled", "chance"}
                assert row["chance"] == chance
                assert row["own"]["low"] <= row["own"]["median"] <= row["own"]["high"]
            assert "logit_auc" not in population["all"][rule]  # the toy's vocabulary is too small


def test_the_same_seed_finds_the_same(made):
    source, dictionary, tokens, found = made
    again = find(source, dictionary, tokens, CONFIG)
    for rule in ("token", "ngram"):
        mine, yours = (f.populations["features"].scores[rule] for f in (found, again))
        assert np.array_equal(mine, yours, equal_nan=True)


def test_some_units_score_what_they_score_among_all(made):
    """But for another unit's rule: that other is one of those drawn."""
    source, dictionary, tokens, found = made
    some = find(source, dictionary, tokens, dataclasses.replace(CONFIG, n_units=7), ("features",))
    assert some.populations.keys() == {"features"}
    all_of_them, drawn = found.populations["features"], some.populations["features"]
    assert len(set(drawn.unit)) == 7
    assert (np.diff(drawn.unit) > 0).all()
    assert (drawn.n_active == all_of_them.n_active[drawn.unit]).all()
    assert (drawn.single_token == all_of_them.single_token[drawn.unit]).all()
    mine, every = columns(drawn), columns(all_of_them)
    for name in mine:
        same = np.array_equal(mine[name], every[name][drawn.unit], equal_nan=True)
        assert same or name.endswith("_other"), name
    words = report(some.populations, CONFIG)["features"]
    assert (words["n_scored"], words["n_units"], words["sampled"]) == (7, 24, True)


def test_median_leaves_nan_out():
    values = np.array([1.0, np.nan, 3.0, 8.0])
    found = median_interval(values, 400, 0)._asdict()
    assert (found["median"], found["n"]) == (3, 3)
    assert (found["low"], found["high"]) == (1, 8)  # 1 of 27 resamplings is all ones, 7 of 27 have a median of 1
    assert median_interval(values[1:2], 10, 0)._asdict() == {"median": None, "low": None, "high": None, "n": 0}


def test_what_cannot_be_is_refused():
    whole = contexts(1)
    with pytest.raises(CorpusError, match="1 held-out document"):
        side(whole._replace(document=np.minimum(whole.document, 0)), 0)
    with pytest.raises(ConfigError, match="'window' = 0"):
        InterpretConfig(window=0)


def test_windows_lie_within_one_document():
    text = contexts(10)
    mine = text.document.ravel() % 2 == 0
    found = windows(text, mine, 3)
    for row in found.token:
        documents = set(text.document.ravel()[row]) - {-1}
        assert len(documents) == 1
        assert documents.pop() % 2 == 0
        assert len(set(row // 17)) == 1
    assert len(found.token) == 10 * 3  # 0-2, 3-5, 6-8 of 17, the first document's 1-8
