"""The dense step against float64 numpy and autograd, and the numpy reference against finite differences."""

import numpy as np
import pytest
import torch

from sae.kernels.choice import Engine, make_engine
from sae.kernels.cpu import CpuEngine
from sae.kernels.dense import DenseEngine, dense_gradients, gradient_norm
from sae.kernels.objective import UpdateRule
from tests.support import numpy_reference
from tests.support.problems import (
    OBJECTIVES,
    PAPER_RULE,
    away_from_zero,
    doubles,
    flags,
    fresh_state,
    problem,
    reference_run,
    relative,
    uneven_norms,
)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("bias", [0.0, -4.0])
def test_gradients_equal_float64_numpy(objective, bias):
    weights, x = problem(bias=bias, norms=uneven_norms(24))
    assert away_from_zero(weights, x, objective)
    gradients, squared_error, l1, n_fired = dense_gradients(weights, x, 0.7, objective)
    reference = numpy_reference.gradients(*doubles(weights), x.double().numpy(), 0.7, **flags(objective))
    for ours, theirs in zip(gradients, reference, strict=True):
        assert relative(ours, theirs) < 1e-5
    expected = numpy_reference.parts(*doubles(weights), x.double().numpy(), **flags(objective))
    assert (float(squared_error), float(l1)) == pytest.approx(expected[:2], rel=1e-5)
    assert n_fired.tolist() == expected[2].tolist()
    assert float(gradient_norm(gradients)) == pytest.approx(numpy_reference.total_norm(reference), rel=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_numpy_reference_equals_finite_differences(objective):
    weights, x = problem(n_rows=3, n_features=5, d_mlp=4, norms=uneven_norms(5))
    parameters, x, h = doubles(weights), x.double().numpy(), 1e-6
    for p, gradient in zip(parameters, numpy_reference.gradients(*parameters, x, 0.7, **flags(objective)), strict=True):
        for index in np.ndindex(p.shape):
            p[index] += h
            above = numpy_reference.loss(*parameters, x, 0.7, **flags(objective))
            p[index] -= 2 * h
            below = numpy_reference.loss(*parameters, x, 0.7, **flags(objective))
            p[index] += h
            assert gradient[index] == pytest.approx((above - below) / (2 * h), abs=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_equal_autograd(objective):
    weights, x = problem(norms=uneven_norms(24))
    W_enc, b_enc, W_dec, b_dec = (w.clone().requires_grad_() for w in weights)
    f = torch.relu((x - b_dec if objective.tied_bias else x) @ W_enc.T + b_enc)
    cost = f * W_dec.norm(dim=1) if objective.weighted_l1 else f
    ((x - f @ W_dec - b_dec).square().sum(1) + 0.7 * cost.sum(1)).mean().backward()
    ours = dense_gradients(weights, x, 0.7, objective).gradients
    for gradient, theirs in zip(ours, (W_enc, b_enc, W_dec, b_dec), strict=True):
        torch.testing.assert_close(gradient, theirs.grad, rtol=1e-4, atol=1e-5)


def test_numpy_adam_equals_torch():
    """The reference's own second opinion."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, generator=generator, dtype=torch.float64)
    parameter, array = torch.nn.Parameter(weight.clone()), weight.numpy().copy()
    theirs = torch.optim.Adam([parameter], lr=1e-2, betas=(0.8, 0.95), eps=1e-6)
    ours = numpy_reference.Adam([array], (0.8, 0.95), 1e-6)
    for _ in range(5):
        parameter.grad = torch.randn(7, generator=generator, dtype=torch.float64)
        theirs.step()
        ours.step([array], [parameter.grad.numpy()], 1e-2)
    np.testing.assert_allclose(array, parameter.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("limit", [None, 0.5, 1e6])
@pytest.mark.parametrize(("unit_norm", "renormalise"), [(True, "after"), (True, "before"), (False, "after")])
def test_steps_equal_numpy(objective, limit, unit_norm, renormalise):
    weights, x = problem(norms=1.0 if unit_norm else uneven_norms(24))
    rule = UpdateRule(unit_norm=unit_norm, renormalise=renormalise, max_gradient_norm=limit)
    engine, reference = DenseEngine(fresh_state(weights), objective, rule), reference_run(weights, objective, rule)
    for step in range(5):
        rows = x.roll(step, 0)[:30]
        result, expected = engine.step(rows, 0.7, 1e-2), reference.step(rows.double().numpy(), 0.7, 1e-2)
        assert float(result.gradient_norm) == pytest.approx(expected[3], rel=1e-4)
    for ours, theirs, start in zip(engine.state.weights, reference.parameters, weights, strict=True):
        assert relative(ours - start, theirs - start.double().numpy()) < 1e-4
    assert engine.state.n_updates == 5


def test_engines_are_engines():
    weights, _ = problem()
    for kind in (CpuEngine, DenseEngine):
        assert isinstance(kind(fresh_state(weights), OBJECTIVES[0], PAPER_RULE), Engine)
    assert isinstance(make_engine(fresh_state(weights), OBJECTIVES[0], PAPER_RULE), CpuEngine)
