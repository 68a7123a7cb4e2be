"""The five claims over a toy, each figure beside a dense reference."""

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from sae.causal.ablation import ablation_study, of_like_density, random_direction
from sae.causal.interventions import pin
from sae.causal.sampling import sample
from sae.chance import generator
from sae.claims.agreement import QUANTILES
from sae.claims.config import ClaimsConfig
from sae.claims.evidence import gather
from sae.claims.figures import CLAIMS, Claim, Figure, Interval
from sae.claims.study import study
from sae.errors import ConfigError, CorpusError
from sae.features.side_by_side import Side
from tests.features.toy import dense, random_dictionary, setup
from tests.support.chosen import largest
from tests.support.stores import make_tokens
from tests.support.toy_source import ToySource

CONFIG = ClaimsConfig(
    hypotheses=(),
    own={"teens": {"pattern": "<1[0-4]>"}, "kind": {"kinds": ["kind1"]}},
    n_tokens=192,
    n_choice_tokens=192,
    n_controls=3,
    n_continuations=5,
    continued_tokens=5,
    n_bootstrap=30,
    contexts_per_batch=5,
)
LIMIT = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    source, dictionary, tokens = setup(tmp_path_factory.mktemp("claims"), n_heldout=30)
    return tokens, Side("A/1", source, dictionary), Side("B/1", ToySource(seed=7), random_dictionary(20, seed=5))


@pytest.fixture(scope="module")
def studies(made):
    tokens, side, other = made
    return study(tokens, side, CONFIG, other)


@pytest.fixture(scope="module")
def reference(made):
    """Activations of neurons and features on the contexts that count, whether each token is a teen, and the tokens."""
    tokens, side, _ = made
    contexts = tokens.split("heldout")[0:LIMIT]
    x, f, place = dense(side.source, side.dictionary, contexts)
    ids = contexts.tokens.ravel()[place].astype(int)
    return x, f, (ids >= 10) & (ids <= 14), ids


def figure(found, claim, i=0):
    return found.claim(claim).figures[i]


def numbers(found):
    return int(found.feature.rpartition("/")[2]), int(found.neuron.rpartition("/")[2])


def test_the_best_are_chosen_on_other_contexts(made, studies):
    tokens, side, _ = made
    contexts = tokens.split("heldout")[LIMIT:30]
    x, f, place = dense(side.source, side.dictionary, contexts)
    evidence = gather(tokens, side, CONFIG)
    assert (evidence.n_contexts, evidence.n_chosen_on) == (LIMIT, 192 // 16 * 15)
    big = ClaimsConfig(**{**vars(CONFIG), "n_choice_tokens": 10**6})
    ids = contexts.tokens.ravel()[place].astype(int)
    true = ((ids >= 10) & (ids <= 14)).astype(float)
    for units, chosen in ((f, 0), (x, 1)):
        r = [np.corrcoef(unit, true)[0, 1] if unit.std() > 0 else -1 for unit in units.T]
        assert r[gather(tokens, side, big).best[0][chosen]] == pytest.approx(max(r), abs=1e-5)
    assert numbers(studies[0]) == tuple(evidence.best[0])


def test_specific_and_sensitive(studies, reference):
    x, f, true, _ = reference
    found = studies[0]
    feature, neuron = numbers(found)
    assert (found.n_tokens, found.n_true, found.n_active) == (len(true), int(true.sum()), int((f[:, feature] > 0).sum()))
    for unit, which in ((f[:, feature], "value"), (x[:, neuron], "control")):
        assert getattr(figure(found, "specific"), which).value == pytest.approx(unit[true].sum() / unit.sum(), rel=1e-5)
        strong = unit > unit.max() / 2
        assert getattr(figure(found, "specific", 1), which).value == pytest.approx(true[strong].mean())
        assert getattr(figure(found, "sensitive"), which).value == pytest.approx(np.corrcoef(unit, true)[0, 1], rel=1e-5)
    assert figure(found, "specific", 2).value.value == pytest.approx(true.mean())
    assert figure(found, "sensitive", 1).value.value == pytest.approx((f[true, feature] > 0).mean())


def test_causal(made, studies, reference):
    tokens, side, _ = made
    _, f, true, ids = reference
    found = studies[0]
    feature, _ = numbers(found)
    split = tokens.split("heldout")
    one = ablation_study(side.source, side.dictionary, split, feature, 0, n_tokens=LIMIT * 16)
    lost = figure(found, "causal")
    assert lost.value.value == pytest.approx(one.change, abs=2e-6)
    own = side.dictionary.W_dec[feature]
    assert not torch.equal(random_direction(own, 0), random_direction(own, 1))
    lowest = min(
        ablation_study(side.source, side.dictionary, split, feature, 0, n_tokens=LIMIT * 16, seed=k).direction_change
        for k in range(3)
    )
    assert lost.control.value == pytest.approx(lowest, abs=2e-6)
    assert lost.holds == (one.change < lowest)
    others = of_like_density((f > 0).mean(0), feature)[:3]
    changes = [
        ablation_study(side.source, side.dictionary, split, feature, int(k), n_tokens=LIMIT * 16).control_own_change
        for k in others
    ]
    assert figure(found, "causal", 1).control.value == pytest.approx(float(np.median(changes)), abs=2e-6)
    share = {token: true[ids == token].mean() for token in set(ids.tolist())}
    weights = side.source.logit_weights(side.dictionary.W_dec, 1.0)
    n_top = int(figure(found, "causal", 2).name.split()[3])
    rare = np.bincount(tokens.split("train")[0:60].tokens.ravel(), minlength=50) < 10
    listed = np.flatnonzero(~rare & (np.arange(50) != 0))

    def mean_share(unit):
        top = listed[largest(weights[unit][listed], n_top)]
        return np.mean([share[token] for token in top if token in share])

    assert figure(found, "causal", 2).value.value == pytest.approx(mean_share(feature))
    others = [mean_share(other) for other in np.flatnonzero((f > 0).any(0) & (np.arange(24) != feature))]
    assert figure(found, "causal", 2).control.value == pytest.approx(np.quantile(others, 0.95))


def teens(source, start, seed, change):
    written = sample(source, start.tolist(), 5, seed=seed, change=change, bos=0)
    return np.mean([10 <= token <= 14 for token in written])


def test_pinned_is_what_is_written_one_text_after_the_other(made, studies, reference):
    tokens, side, _ = made
    _, f, *_ = reference
    feature, _ = numbers(studies[0])
    starts = tokens.split("heldout")[0:LIMIT].tokens[:, :8].astype(int)
    starts = [start for start in starts if not ((start >= 10) & (start <= 14)).any()]
    n = min(len(starts), 5)
    assert n > 1
    pinned = figure(studies[0], "causal", 3)
    control = int(of_like_density((f > 0).mean(0), feature)[0])
    for which, interval in ((feature, pinned.value), (control, pinned.control)):
        change = pin(side.dictionary, which, float(np.float32(f[:, which].max())))
        share = np.array(
            [[teens(side.source, start, k, change) for k in range(n)] for start in starts]
        )  # of each text by each seed
        orders = itertools.permutations(range(len(starts)), n)
        assert any(interval.value == pytest.approx(np.mean([share[i, k] for k, i in enumerate(order)])) for order in orders)
        assert interval.low <= interval.value <= interval.high


def test_not_a_neuron(made, studies, reference):
    _, side, _ = made
    x, f, true, _ = reference
    feature, _ = numbers(studies[0])
    direction = side.dictionary.W_dec[feature].double().numpy()
    direction /= np.linalg.norm(direction)
    r = np.array([np.corrcoef(f[:, feature], unit)[0, 1] if unit.std() > 0 else -1 for unit in x.T])
    first, ratio, _, largest, above = studies[0].claim("not a neuron").figures
    closest, told = re.fullmatch(r"neuron (\d+), the closest \(r (-?[\d.]+)\)", first.control_name).groups()
    closest = int(closest)
    assert r[closest] == pytest.approx(r.max(), abs=1e-5)
    assert float(told) == pytest.approx(r.max(), abs=0.00501)
    assert first.control.value == pytest.approx(np.corrcoef(x[:, closest], true)[0, 1], rel=1e-5)
    assert ratio.value.value == pytest.approx(1 / (direction**4).sum(), rel=1e-5)
    assert largest.value.value == pytest.approx(np.abs(direction).max(), rel=1e-5)
    assert above.value.value == (np.abs(direction) >= 0.1).sum()


def test_universal(made, studies, reference):
    tokens, _, other = made
    x, f, true, _ = reference
    feature, neuron = numbers(studies[0])
    y, g, _ = dense(other.source, other.dictionary, tokens.split("heldout")[0:LIMIT])

    def correlations(own, units):
        return np.array([np.corrcoef(own, unit)[0, 1] if unit.std() > 0 and own.std() > 0 else -1 for unit in units.T])

    r = correlations(f[:, feature], g)
    first, of_neurons, with_score = studies[0].claim("universal").figures
    partner = int(re.fullmatch(r"correlation with B/1/(\d+)", first.name).group(1))
    assert r[partner] == pytest.approx(r.max(), abs=1e-5)
    assert first.value.value == pytest.approx(r.max(), rel=1e-5)
    rolled = np.roll(f[:, feature].reshape(LIMIT, 15), LIMIT // 2, axis=0).ravel()
    assert first.control.value == pytest.approx(correlations(rolled, g).max(), rel=1e-5)
    assert of_neurons.control.value == pytest.approx(correlations(x[:, neuron], y).max(), rel=1e-5)
    assert with_score.value.value == pytest.approx(np.corrcoef(g[:, partner], true)[0, 1], rel=1e-5)
    partners = [
        (f[:, feature], g[:, partner]),
        (rolled, g[:, largest(correlations(rolled, g))[0]]),
        (x[:, neuron], y[:, largest(correlations(x[:, neuron], y))[0]]),
    ]
    chance = generator(CONFIG.seed, "contexts")
    resampled = []
    for _ in range(CONFIG.n_bootstrap):
        rows = (chance.integers(0, LIMIT, LIMIT)[:, None] * 15 + np.arange(15)).ravel()
        resampled.append([np.corrcoef(one[rows], two[rows])[0, 1] for one, two in partners])
    own, shuffled, neurons = np.array(resampled).T
    assert first.value[1:] == pytest.approx(np.quantile(own, QUANTILES), rel=1e-5)
    assert first.control[1:] == pytest.approx(np.quantile(shuffled, QUANTILES), rel=1e-5)
    assert first.holds == (np.quantile(own - shuffled, 0.025) > 0)
    assert of_neurons.holds == (np.quantile(own - neurons, 0.025) > 0)


def test_of_one_transformer_its_neurons_are_no_control(made):
    tokens, side, _ = made
    same = Side("A/2", side.source, random_dictionary(20, seed=9))
    found = study(tokens, side, CONFIG, same)[0]
    assert len(found.claim("universal").figures) == 2


def test_what_is_written_is_in_no_kind_of_document(made):
    """Whatever the number of the kind: kinds are counted from 0, and what is written has none."""
    tokens, side, _ = made
    for kind in ("kind0", "kind1"):
        config = ClaimsConfig(**{**vars(CONFIG), "own": {"kind": {"kinds": [kind]}}, "n_continuations": 6})
        (found,) = study(tokens, side, config)
        pinned = figure(found, "causal", 3)
        assert (pinned.name, pinned.value.value, pinned.holds) == ("share of what is written, pinned", None, None)


def test_a_single_context_has_no_shuffled_control(made):
    tokens, side, other = made
    config = ClaimsConfig(**{**vars(CONFIG), "n_tokens": 16, "own": {"low": {"pattern": "<[1-9]>|<[12]."}}})
    (found,) = study(tokens, side, config, other)
    first = figure(found, "universal")
    assert first.value.value is not None
    assert (first.control.value, first.holds) == (None, None)
    assert figure(found, "sensitive").holds is None


@pytest.mark.parametrize(("id", "neurons"), [("A/1", "A"), ("data/A/1", "data/A"), ("../A/sweep/wide/", "../A")])
def test_the_neuron_is_the_transformer_s(made, id, neurons):
    tokens, side, _ = made
    (found,) = study(tokens, side._replace(id=id), ClaimsConfig(**{**vars(CONFIG), "own": {"teens": {"pattern": "<1[0-4]>"}}}))
    assert found.neuron.rpartition("/")[0] == f"{neurons}/neurons"


def test_all_is_said(made, studies):
    for found in studies:
        assert [claim.name for claim in found.claims] == list(CLAIMS)
        words = json.loads(json.dumps(found.to_dict()))
        assert set(words["claims"]) == set(CLAIMS)
        for claim in found.claims:
            assert f"{claim.name}: {claim.verdict}" in str(found)
        assert bool(found.caveat) == (found.claim("sensitive").verdict == "does not hold") == ("best there is" in str(found))
        assert words["caveat"] == found.caveat
    alone = study(made[0], made[1], CONFIG)[0]
    assert alone.claim("universal").verdict == "not tested"
    assert "--other B/1" in str(alone)


def test_without_a_feature_for_the_hypothesis_that_is_said(studies):
    found = studies[0]
    said = f"No feature agrees with the hypothesis clearly better than a neuron does: {found.feature}"
    for holds, expected in ((True, ""), (False, said)):
        decided = Claim("sensitive", (Figure("", Interval(1.0), "", Interval(0.0), holds),))
        changed = replace(found, claims=(decided, *(claim for claim in found.claims if claim.name != "sensitive")))
        assert changed.caveat.startswith(expected)
        assert bool(changed.caveat) == bool(expected)


def test_a_claim_holds_where_all_that_decide_do():
    def claim(*holds):
        return Claim("causal", tuple(Figure("", Interval(1.0), "", Interval(0.0), each) for each in holds)).verdict

    assert claim(True, None, True) == "holds"
    assert claim(True, False) == "does not hold"
    assert claim(None) == claim() == "not tested"


def test_what_cannot_be_studied_is_refused(made, tmp_path):
    tokens, side, _ = made
    with pytest.raises(ConfigError, match=r"a feature for 'never' is chosen none is of .* held-out ones 0:"):
        study(tokens, side, ClaimsConfig(**{**vars(CONFIG), "own": {"never": {"pattern": "nowhere"}}}))
    with pytest.raises(ConfigError, match="a feature for 'all' is chosen every one is of"):
        study(tokens, side, ClaimsConfig(**{**vars(CONFIG), "own": {"all": {"pattern": "<"}}}))
    few = ClaimsConfig(**{**vars(CONFIG), "n_tokens": 16})
    with pytest.raises(ConfigError, match=r"of the 15 tokens on which a feature for 'two' is tried none is of.*--tokens"):
        study(tokens, side, ClaimsConfig(**{**vars(few), "own": {"two": {"pattern": "<11>|<12>"}}}))
    with pytest.raises(ConfigError, match="A/1 is the dictionary of A/1 itself"):
        study(tokens, side, CONFIG, side)
    with pytest.raises(CorpusError, match="a study takes two at least"):
        study(make_tokens(tmp_path / "one", n_heldout=1), side, CONFIG)
    with pytest.raises(ConfigError, match="no hypothesis 'klingon'"):
        ClaimsConfig(hypotheses=("klingon",))
    for name in ("n_tokens", "n_controls"):
        with pytest.raises(ConfigError, match=f"'{name}' = 0"):
            ClaimsConfig(**{name: 0})
