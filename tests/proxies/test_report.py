"""Both passes on a corpus small enough to count: planted units of known specificity and sensitivity."""

import io
import json

import matplotlib.image
import numpy as np
import pytest
import torch

from pipelines.proxies import table
from sae.errors import ConfigError, CorpusError, NumericsError
from sae.proxies.hypotheses import HYPOTHESES, Hypothesis, ProxiesConfig
from sae.proxies.likelihood import Alphabet
from sae.proxies.plots import plot_hypothesis
from sae.proxies.report import find, report
from sae.proxies.sampling import measure
from tests.proxies.corpora import OneHotSource, dictionary_of, write_store

# ids:        0       1       2     3      4       5        6
VOCABULARY = ["سلام".encode(), "كتاب".encode(), b"the", b"cat", b" \xd8", "дом".encode(), b"<bos>"]
STRENGTH = torch.tensor([2.0, 4.0, 1.0, 1.0, 3.0, 1.0, 9.0])
TRAIN = [("arabic", [0, 1, 4, 0] * 4), ("english", [2, 3] * 40), ("russian", [5] * 16)]
# Held out: Arabic has 8 + 4 tokens of script, 4 of a space and half a letter, which the proxy cannot see as Arabic;
# a Russian document quotes two Arabic words; 64 tokens are English.
HELDOUT = [("arabic", [0, 0, 1, 4] * 4), ("english", [2, 3] * 32), ("russian", [5, 5, 0, 5, 5, 0, 5, 5])]
N = 16 + 64 + 8


@pytest.fixture(name="made")
def fixture_made(tmp_path):
    store = write_store(tmp_path / "tokens", VOCABULARY, TRAIN, HELDOUT)
    # Feature 0: both Arabic words. 1: them, the half letter, and weakly `the`. 2: `cat`. 3: never active.
    dictionary = dictionary_of({0: {0: 1, 1: 1}, 1: {0: 1, 1: 1, 4: 1, 2: 0.25}, 2: {3: 1}}, 4, 7)
    config = ProxiesConfig(n_tokens=10**6, hypotheses=("arabic", "dna"), n_strongest=6, purity=0.9)
    return store, OneHotSource(STRENGTH), dictionary, config


def test_planted_units(made):
    findings = find(*made)
    words = report(findings, made[3])
    assert words["n_tokens"] == N
    arabic = words["hypotheses"]["arabic"]
    assert (arabic["n_tokens"], arabic["share"]) == (16, round(16 / N, 6))
    proxy = arabic["proxy"]
    assert proxy["n_positive"] == 14
    assert (proxy["specificity"], proxy["sensitivity"]) == (round(12 / 14, 4), 12 / 16)

    best = arabic["best_feature"]
    assert best["id"] == "A/1/0"
    assert (best["n_active"], best["density"], best["maximum"]) == (14, round(14 / N, 6), 4.0)
    assert (best["specificity_proxy"], best["sensitivity_proxy"]) == (1.0, 1.0)
    assert (best["specificity_kind"], best["sensitivity_kind"]) == (round(12 / 14, 4), 12 / 16)
    summed = 10 * 2.0 + 4 * 4.0  # ten times the first word, twice of them in Russian; four times the second
    assert best["specificity_weighted_kind"] == round((summed - 4.0) / summed, 4)
    assert best["sensitivity_weighted_kind"] == round((summed - 4.0) / (16 * 4.0), 4)
    # Arabic's four half letters are the eleventh to fourteenth of 18 tokens above `the`; of the six strongest all are Arabic.
    assert best["strongest_of_kind"] == 1.0
    assert [(row["n_active"], row["specificity_kind"]) for row in best["levels"] if row["n_active"]] == [(10, 0.8), (4, 1.0)]

    by_kind = arabic["best_feature_by_kind"]
    assert by_kind["id"] == "A/1/1"
    assert (by_kind["n_active"], by_kind["sensitivity_kind"]) == (18 + 32, 1.0)
    assert arabic["best_neuron"]["id"] == "A/neurons/0"


def test_correlations_are_numpys(made):
    arabic = report(find(*made), made[3])["hypotheses"]["arabic"]
    tokens = np.array([t for _, text in HELDOUT for t in text])
    kind = np.repeat([1, 0, 0], [16, 64, 8])
    sign = np.isin(tokens, [0, 1]).astype(float)
    first = np.array([2.0, 4, 0, 0, 0, 0])[tokens]
    for unit, x in (("best_feature", first), ("best_neuron", np.array([2.0, 0, 0, 0, 0, 0])[tokens])):
        assert arabic[unit]["pearson_proxy"] == arabic[unit]["pearson_sign"] == round(np.corrcoef(x, sign)[0, 1], 4)
        assert arabic[unit]["pearson_clipped"] == arabic[unit]["pearson_proxy"]  # one positive level: the same up to a factor
        assert arabic[unit]["pearson_kind"] == round(np.corrcoef(x, kind)[0, 1], 4)
    assert arabic["proxy"]["pearson_sign"] == round(np.corrcoef(sign, kind)[0, 1], 4)
    best = arabic["best_by"]["proxy"]
    assert (best["feature"], best["neuron"], best["winner"]) == ("A/1/0", "A/neurons/0", "feature")
    assert best["feature_pearson"] == arabic["best_feature"]["pearson_proxy"]


def test_pure_units_are_counted(made):
    words = report(find(*made), made[3])
    # Of six strongest: features 0 and 1 take four of the second word (4.0), then: feature 0 the first two of the first
    # word, in Arabic; feature 1 half letters (3.0). Feature 2 is all English. Feature 3 is active on too few tokens.
    assert words["n_counted"] == {"features": 3, "neurons": 4}  # neurons 1 and 4 have 4 active tokens, BOS's none
    assert words["kinds"]["arabic"] == {"n_tokens": 16, "n_pure_features": 2, "n_pure_neurons": 1}
    assert words["kinds"]["english"] == {"n_tokens": 64, "n_pure_features": 1, "n_pure_neurons": 2}
    assert words["kinds"]["russian"] == {"n_tokens": 8, "n_pure_features": 0, "n_pure_neurons": 1}
    assert words["hypotheses"]["arabic"]["n_pure_features"] == 2


def test_hypothesis_that_the_corpus_lacks(made, tmp_path):
    findings = find(*made)
    words = report(findings, made[3])
    dna = words["hypotheses"]["dna"]
    assert (dna["n_tokens"], dna["best_feature"], dna["best_neuron_by_kind"], dna["n_pure_features"]) == (0, None, None, 0)
    plot_hypothesis(findings, 1, tmp_path / "dna.png")
    assert (tmp_path / "dna.png").stat().st_size > 1000
    lines = table(words, "A/1").splitlines()
    assert lines[0].startswith("A/1: proxies on 88 held-out tokens (all there are; 1,000,000 asked for)")
    assert "A/1/0" in lines[2]
    assert lines[3].split()[:4] == ["dna", "0", "-", "-"]


def test_same_seed_same_bytes(made, tmp_path):
    texts = []
    for name in ("first.png", "second.png"):
        findings = find(*made)
        plot_hypothesis(findings, 0, tmp_path / name)
        texts.append(json.dumps(report(findings, made[3]), sort_keys=True, allow_nan=False))
    assert texts[0] == texts[1]
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_picture_shows_the_score_in_colours(made, tmp_path):
    plot_hypothesis(find(*made), 0, tmp_path / "arabic.png")
    pixels = matplotlib.image.imread(io.BytesIO((tmp_path / "arabic.png").read_bytes()))
    found = (255 * pixels[:, :, :3]).round().astype(int) @ [65536, 256, 1]
    assert (found == 0xFBD38A).sum() > 1000  # the Arabic words: ln(1/P) is between 0 and 3 nats here
    assert not (found == 0x7F1D1D).any()  # nothing is above 100 nats


def test_a_part_of_the_heldout_text(made):
    store, source, dictionary, _ = made
    config = ProxiesConfig(n_tokens=18, hypotheses=("arabic",), seed=3)
    findings = find(store, source, dictionary, config)
    assert findings.found.n_tokens == 16  # two contexts of nine positions, BOS at the first


def test_nothing_held_out(made, tmp_path):
    _, source, dictionary, config = made
    store = write_store(tmp_path / "empty", VOCABULARY, TRAIN, [("english", [])])
    with pytest.raises(CorpusError, match="held-out split holds no tokens"):
        find(store, source, dictionary, config)


def test_nan_in_activations(made):
    store, source, dictionary, config = made
    source.strength[3] = float("nan")
    with pytest.raises(NumericsError, match="NaN or infinite"):
        find(store, source, dictionary, config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hypotheses": ("arabic", "klingon")}, "no hypothesis 'klingon'"),
        ({"hypotheses": ()}, "at least one"),
        ({"hypotheses": ("dna", "dna")}, "once"),
        ({"n_tokens": 0}, "at least 1"),
        ({"purity": 0.0}, "fraction"),
    ],
)
def test_impossible_params(values, message):
    with pytest.raises(ConfigError, match=message):
        ProxiesConfig(**values)


def test_scores_that_may_be_infinite_are_not_correlated():
    with pytest.raises(ConfigError, match="read its sign"):
        Hypothesis(name="x", title="x", kinds=("x",), proxy=Alphabet(characters="AC", min_tokens=2), reading="score")


def test_paper_figures():
    assert {name: h.paper for name, h in HYPOTHESES.items() if h.paper} == {
        "arabic": 0.74, "hebrew": 0.55, "dna": 0.80, "base64": 0.38,
    }  # fmt: skip


def test_readings_of_a_score_are_correlated_as_named(tmp_path):
    vocabulary = [b"q", b"Z", b"the ", b"...", b"<bos>"]
    train = [("english", [2, 3] * 300), ("base64", [0, 1, 1, 0, 1])]
    heldout = [("base64", [0, 1, 0, 0, 3, 1]), ("english", [2, 2, 3, 0, 2]), ("pem", [3, 1, 1])]
    store = write_store(tmp_path / "tokens", vocabulary, train, heldout)
    strength = torch.tensor([1.0, 3.0, 2.0, 0.5, 7.0])
    config = ProxiesConfig(hypotheses=("base64",), n_strongest=2)
    findings = find(store, OneHotSource(strength), dictionary_of({}, 2, 5), config)
    weights = HYPOTHESES["base64"].proxy.weights(measure(store, 10, 0))
    scores, tokens = [], []
    for _, text in heldout:
        for j in range(len(text)):
            scores.append(max(sum(weights[t] for t in text[start : j + 1]) for start in range(j + 1)))
            tokens.append(text[j])
    readings = [scores, np.array(scores) > 0, np.maximum(scores, 0), np.repeat([1, 0, 1], [6, 5, 3])]  # PEM is base64 too
    for neuron in range(4):
        x = np.where(np.array(tokens) == neuron, strength[neuron].item(), 0.0)
        wanted = [np.corrcoef(x, y)[0, 1] for y in readings]
        np.testing.assert_allclose(findings.found.populations["neurons"].pearson[:, 0, neuron], wanted, rtol=1e-9)
    assert np.isnan(findings.found.populations["features"].pearson).all()  # features that never fire
    words = report(findings, config)["hypotheses"]["base64"]
    assert words["best_feature"] is None
    assert words["n_tokens"] == 9
