"""The CPU engine: whole steps against numpy, the same bits whatever computed them, and nothing changed where numbers break."""

import dataclasses

import numpy as np
import pytest
import torch

from sae.kernels.cpu import SPARSE_BELOW, CpuEngine
from sae.kernels.dense import DenseEngine
from sae.kernels.objective import UpdateRule
from sae.kernels.screens import Float32Screen
from tests.support.problems import (
    APRIL_2024,
    MONOSEMANTICITY,
    OBJECTIVES,
    PAPER_RULE,
    SCREENS,
    copied,
    fresh_state,
    problem,
    reference_run,
    relative,
    same_bits,
    uneven_norms,
)

WAYS = ["sparse", "dense"]
CLIPPED = UpdateRule(unit_norm=False, max_gradient_norm=1.0)


def engine_on(weights, objective=MONOSEMANTICITY, rule=PAPER_RULE, kind=None):
    """An engine on copies of the weights; its screen is of the given kind whatever the data."""
    engine = CpuEngine(fresh_state(weights), objective, rule)
    if kind is not None:
        engine.update = type(engine.update)(engine.state, objective, rule, keep_bits=True)
        screen = kind(len(weights.b_enc))
        engine._screen = lambda x: screen
    return engine


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("limit", [None, 0.5, 1e6])
@pytest.mark.parametrize(("unit_norm", "renormalise"), [(True, "after"), (True, "before"), (False, "after")])
def test_steps_equal_numpy(way, objective, limit, unit_norm, renormalise):
    """Weights, moments and all that a step reports, through six steps on six batches."""
    weights, x = problem(bias=-2.0, norms=1.0 if unit_norm else uneven_norms(24))
    rule = UpdateRule(unit_norm=unit_norm, renormalise=renormalise, max_gradient_norm=limit)
    engine, reference = engine_on(weights, objective, rule), reference_run(weights, objective, rule)
    for step in range(6):
        rows, l1, learning_rate = x.roll(step, 0)[:30], 0.1 * step, 1e-2 / (1 + step)
        result = getattr(engine, way)(rows, l1, learning_rate)
        squared_error, mean_l1, n_fired, norm = reference.step(rows.double().numpy(), l1, learning_rate)
        measured = float(result.squared_error), float(result.l1), float(result.gradient_norm)
        assert measured == pytest.approx((squared_error, mean_l1, norm), rel=1e-4)
        assert result.n_fired.tolist() == n_fired.tolist()
        assert bool(result.finite)
    state = engine.state
    assert state.n_updates == 6
    for ours, theirs, start in zip(state.weights, reference.parameters, weights, strict=True):
        assert relative(ours - start, theirs - start.double().numpy()) < 1e-4
    for ours, theirs in zip((*state.first, *state.second), (*reference.adam.m, *reference.adam.v), strict=True):
        assert relative(ours, theirs) < 1e-4


@pytest.fixture
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize(("objective", "rule"), [(MONOSEMANTICITY, PAPER_RULE), (APRIL_2024, CLIPPED)])
def test_same_bits_with_any_screen_and_number_of_threads(objective, rule):
    """Three steps over several blocks of rows, groups and tiles; also twice the same."""
    weights, x = problem(n_rows=600, n_features=1100, d_mlp=37, bias=-9.0)
    x = x * (torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.2)
    states, results = [], []
    for kind in SCREENS:
        for n_threads in (1, 2, 3, 1):
            torch.set_num_threads(n_threads)
            engine = engine_on(weights, objective, rule, kind)
            results.append([engine.sparse(x, 0.3, 1e-2) for _ in range(3)])
            states.append(engine.state)
    assert all(same_bits(states[0], state) for state in states[1:])
    for run in results[1:]:
        for ours, first in zip(run, results[0], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, first, strict=True))
    assert not torch.equal(states[0].weights.W_enc, weights.W_enc)


def test_dense_same_bits_twice():
    weights, x = problem(n_rows=600, n_features=60)
    a, b = engine_on(weights), engine_on(weights)
    for engine in (a, b):
        engine.dense(x, 0.3, 1e-2)
    assert same_bits(a.state, b.state)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", [PAPER_RULE, CLIPPED])
def test_steps_leave_the_batch_alone(way, rule):
    weights, x = problem(bias=-2.0)
    before = x.clone()
    for objective in OBJECTIVES:
        getattr(engine_on(weights, objective, rule), way)(x, 0.3, 1e-2)
        assert torch.equal(x, before)


def broken(place, value):
    """A problem with one bad number, or numbers whose gradients leave float32."""
    weights, x = problem(bias=2.0)
    if place == "x":
        x[3, 2] = value
    elif place == "all of x":
        x.mul_(value)
    else:
        getattr(weights, place).view(-1)[3] = value
    return weights, x


CASES = [
    *[(place, value) for place in ("x", "W_enc", "b_enc", "W_dec", "b_dec") for value in (float("nan"), float("inf"))],
    ("x", 1e38),
    ("all of x", 1e12),
    ("all of x", 1e25),
    ("W_enc", 1e38),
    ("W_enc", 1e20),
    ("W_dec", 1e30),
    ("b_dec", 1e25),
]


@pytest.mark.parametrize("kind", ["dense engine", "dense", *SCREENS])
@pytest.mark.parametrize(("objective", "rule"), [(MONOSEMANTICITY, PAPER_RULE), (APRIL_2024, CLIPPED)])
@pytest.mark.parametrize(("place", "value"), CASES)
def test_not_one_bit_changes_where_numbers_break(kind, objective, rule, place, value):
    weights, x = broken(place, value)
    if kind == "dense engine":
        step = (engine := DenseEngine(fresh_state(weights), objective, rule)).step
    elif kind == "dense":
        step = (engine := engine_on(weights, objective, rule)).dense
    else:
        step = (engine := engine_on(weights, objective, rule, kind)).sparse
    before = copied(engine.state)
    with np.errstate(all="ignore"):
        result = step(x, 0.3, 1e-2)
    assert not bool(result.finite)
    assert same_bits(engine.state, before)


TOO_LARGE = {
    "λ": (OBJECTIVES, {}, 1.0, 1e30),
    "∂b_enc · W_enc": ([o for o in OBJECTIVES if o.tied_bias], {"W_enc": 1e10, "b_dec": 1e-9}, 1e-9, 1e12),
    "λ f": ([o for o in OBJECTIVES if o.weighted_l1], {"W_enc": 1e10, "W_dec": 1e-10}, 1.0, 1e12),
}
"""Each factor is harmless and the loss below 1e18, but one gradient's square leaves float32; which objectives have it, factors
on weights, a factor on x, λ."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", TOO_LARGE)
def test_gradients_too_large_to_be_squared_are_refused(way, case):
    objectives, factors, on_x, l1 = TOO_LARGE[case]
    for objective in objectives:
        weights, x = problem(bias=2.0)
        weights = weights._replace(**{name: getattr(weights, name) * factor for name, factor in factors.items()})
        engine = engine_on(weights, objective)
        before = copied(engine.state)
        assert not bool(getattr(engine, way)(x * on_x, l1, 1e-2).finite)
        assert same_bits(engine.state, before)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_decoder_row_of_a_feature_that_never_fires(way, value):
    """Nothing of the step reads it but its own update, which would spread it over the row."""
    weights, x = problem(bias=-2.0)
    weights.b_enc[3] = -1e6
    engine = engine_on(weights)
    engine.state.weights.W_dec[3, 1] = value
    engine.refresh()
    before = copied(engine.state)
    assert not bool(getattr(engine, way)(x, 0.3, 1e-2).finite)
    assert same_bits(engine.state, before)


@pytest.mark.parametrize("way", WAYS)
def test_a_step_after_a_refused_one_is_as_if_it_had_not_been(way):
    weights, x = problem(bias=-2.0)
    a, b = engine_on(weights), engine_on(weights)
    bad = x.clone()
    bad[0, 0] = float("nan")
    getattr(a, way)(bad, 0.3, 1e-2)
    for engine in (a, b):
        getattr(engine, way)(x, 0.3, 1e-2)
    assert same_bits(a.state, b.state)


def taken(engine, x):
    """Which way the next step goes."""
    way = []
    for name in WAYS:
        original = getattr(CpuEngine, name)
        setattr(engine, name, lambda *a, name=name, original=original: (way.append(name), original(engine, *a))[1])
    engine.step(x, 0.3, 1e-3)
    return way[0]


def test_the_way_follows_the_density():
    """Dense where nothing is known, then by what the step before measured."""
    weights, x = problem(n_rows=200, n_features=100, bias=-15.0)
    engine = engine_on(weights)
    assert taken(engine, x) == "dense"
    assert 0 < engine.density < SPARSE_BELOW
    assert taken(engine, x) == "sparse"
    engine.state.weights.b_enc.add_(30)
    assert taken(engine, x) == "sparse"
    assert engine.density > SPARSE_BELOW
    assert taken(engine, x) == "dense"


@pytest.mark.parametrize("kind", SCREENS)
def test_refresh_after_weights_were_changed_from_outside(kind):
    """Without it the screens would bound by norms, and multiply by bits, of weights that are gone."""
    weights, x = problem(n_rows=200, n_features=100, bias=-15.0)
    engine = engine_on(weights, kind=kind)
    engine.state.weights.W_enc.mul_(-2)
    engine.refresh()
    other = engine_on(engine.state.weights, kind=Float32Screen)
    engine.sparse(x, 0.3, 1e-2)
    other.sparse(x, 0.3, 1e-2)
    assert same_bits(engine.state, other.state)


def test_continued_from_saved_tensors_the_bits_are_the_same():
    weights, x = problem(n_rows=200, n_features=100, bias=-9.0)
    whole = engine_on(weights)
    for _ in range(2):
        whole.sparse(x, 0.3, 1e-2)
    saved = {name: tensor.clone() for name, tensor in whole.state.tensors().items()}
    assert list(saved) == [f"{part}{name}" for part in ("", "first.", "second.") for name in weights._fields]
    resumed = engine_on(weights)
    resumed.state.load(saved, whole.state.n_updates)
    resumed.refresh()
    for engine in (whole, resumed):
        engine.sparse(x, 0.3, 1e-2)
    assert same_bits(whole.state, resumed.state)
    assert whole.state.n_updates == 3


def test_moments_are_reset_for_the_given_features_alone():
    weights, x = problem()
    engine = engine_on(weights)
    engine.dense(x, 0.3, 1e-2)
    before = copied(engine.state)
    engine.state.reset_moments(torch.tensor([2, 5]))
    others = [i for i in range(24) if i not in (2, 5)]
    for part in ("first", "second"):
        after, was = getattr(engine.state, part), getattr(before, part)
        for name in ("W_enc", "b_enc", "W_dec"):
            assert not getattr(after, name)[[2, 5]].any()
            assert torch.equal(getattr(after, name)[others], getattr(was, name)[others])
        assert torch.equal(after.b_dec, was.b_dec)
        assert after.b_dec.any()
    assert all(torch.equal(a, b) for a, b in zip(engine.state.weights, before.weights, strict=True))
    assert engine.state.n_updates == before.n_updates


def test_sparse_and_dense_steps_agree():
    """Where the path changes in the middle of a run, nothing else does."""
    weights, x = problem(n_rows=300, n_features=200, d_mlp=37, bias=-9.0)
    for objective, rule in [(MONOSEMANTICITY, PAPER_RULE), (APRIL_2024, dataclasses.replace(CLIPPED, max_gradient_norm=1.0))]:
        sparse, dense = engine_on(weights, objective, rule), engine_on(weights, objective, rule)
        for _ in range(3):
            sparse.sparse(x, 0.3, 1e-3)
            dense.dense(x, 0.3, 1e-3)
        for ours, theirs, start in zip(sparse.state.weights, dense.state.weights, weights, strict=True):
            assert relative(ours - start, theirs - start) < 1e-3
