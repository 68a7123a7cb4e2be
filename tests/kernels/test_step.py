"""Dense and sparse steps against float64 numpy, autograd and finite differences."""

import numpy as np
import pytest
import torch

from sae.kernels import sparse_cpu
from sae.kernels.choice import choose_step
from sae.kernels.dense import dense_step
from sae.kernels.gradients import Weights
from sae.kernels.sparse_cpu import ROWS_AT_ONCE, sparse_step
from tests.support import numpy_reference

STEPS = [dense_step, sparse_step]


def problem(n_rows=40, n_features=24, d_mlp=8, bias=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    W_dec = torch.nn.functional.normalize(normal(n_features, d_mlp), dim=1)
    weights = Weights(normal(n_features, d_mlp), normal(n_features) + bias, W_dec, normal(d_mlp))
    return weights, normal(n_rows, d_mlp) * 2


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("bias", [0.0, -4.0])
def test_gradients_equal_float64_numpy(step, bias):
    weights, x = problem(bias=bias)
    result = step(weights, x, 0.7)
    exact = [np.asarray(w.double()) for w in weights]
    for ours, reference in zip(result.gradients, numpy_reference.gradients(*exact, np.asarray(x.double()), 0.7), strict=True):
        assert relative(ours.numpy(), reference) < 1e-5
    total = float(result.squared_error + 0.7 * result.l1)
    assert total == pytest.approx(numpy_reference.loss(*exact, np.asarray(x.double()), 0.7), rel=1e-5)


def test_numpy_reference_equals_finite_differences():
    weights, x = problem(n_rows=3, n_features=5, d_mlp=4)
    parameters = [np.asarray(w.double()) for w in weights]
    x, h = np.asarray(x.double()), 1e-6
    for p, gradient in zip(parameters, numpy_reference.gradients(*parameters, x, 0.7), strict=True):
        for index in np.ndindex(p.shape):
            p[index] += h
            above = numpy_reference.loss(*parameters, x, 0.7)
            p[index] -= 2 * h
            below = numpy_reference.loss(*parameters, x, 0.7)
            p[index] += h
            assert gradient[index] == pytest.approx((above - below) / (2 * h), abs=1e-5)


def test_dense_step_equals_autograd():
    weights, x = problem()
    W_enc, b_enc, W_dec, b_dec = (w.clone().requires_grad_() for w in weights)
    f = torch.relu((x - b_dec) @ W_enc.T + b_enc)
    ((x - f @ W_dec - b_dec).square().sum(1) + 0.7 * f.sum(1)).mean().backward()
    for ours, theirs in zip(dense_step(weights, x, 0.7).gradients, (W_enc, b_enc, W_dec, b_dec), strict=True):
        torch.testing.assert_close(ours, theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [0.0, -3.0])
def test_sparse_step_equals_dense_over_several_blocks(bias):
    weights, x = problem(n_rows=2 * ROWS_AT_ONCE + 7, n_features=60, bias=bias)
    dense, sparse = dense_step(weights, x, 0.3), sparse_step(weights, x, 0.3)
    assert torch.equal(dense.n_fired, sparse.n_fired)
    for a, b in zip(sparse.gradients, dense.gradients, strict=True):
        assert relative(a.numpy(), b.numpy()) < 1e-5
    assert float(sparse.l1) == pytest.approx(float(dense.l1), rel=1e-5)


def test_sparse_step_where_nothing_fires():
    weights, x = problem(bias=-1000.0)
    result = sparse_step(weights, x, 0.3)
    assert int(result.n_fired.sum()) == 0
    assert not result.gradients.W_enc.any()
    torch.testing.assert_close(result.gradients.b_dec, 2 * (weights.b_dec - x).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", STEPS)
def test_same_bits_twice(step):
    weights, x = problem(n_rows=700, n_features=60, bias=-3.0)
    a, b = step(weights, x, 0.3), step(weights, x, 0.3)
    assert all(torch.equal(p, q) for p, q in zip(a.gradients, b.gradients, strict=True))


def test_steps_leave_their_inputs_alone():
    for step in STEPS:
        weights, x = problem(bias=-2.0)
        before = [tensor.clone() for tensor in (*weights, x)]
        step(weights, x, 0.3)
        assert all(torch.equal(a, b) for a, b in zip(before, (*weights, x), strict=True))


def test_choice_follows_the_density():
    cpu = torch.device("cpu")
    assert choose_step(cpu, 1.0) is dense_step
    assert choose_step(cpu, 0.01) is (sparse_step if torch.backends.mkl.is_available() else dense_step)
    assert choose_step(torch.device("cuda"), 0.01) is dense_step


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("seed", range(5))
def test_screen_misses_no_active_entry(scale, seed):
    """Against pre-activations in float64, biases placed so that many lie within bfloat16's rounding of zero."""
    weights, x = problem(n_rows=300, n_features=64, d_mlp=96, seed=seed)
    x = x * scale
    b_enc = -(x[:64] @ weights.W_enc.T).diagonal() * (1 + 2e-3 * torch.randn(64, generator=torch.Generator().manual_seed(seed)))
    weights = weights._replace(b_enc=b_enc)
    offsets, features = sparse_cpu.screen(weights, x)
    kept = torch.zeros(300, 64, dtype=torch.bool)
    kept[torch.repeat_interleave(torch.arange(300), offsets.diff()), features.long()] = True
    exact = x.double() @ weights.W_enc.double().T + b_enc.double()
    assert kept[exact > 0].all()
    assert not kept[exact < -0.1 * exact.abs().max()].any(), "the screen lets everything through"


def test_screen_holds_in_the_worst_case():
    """Every factor rounds the same way, as far as it can: just above halfway between two bfloat16 numbers, sign by sign."""
    n = 512
    w = torch.full((1, n), 1 + sparse_cpu.ROUNDOFF * 0.999)
    x = torch.full((1, n), 1 + sparse_cpu.ROUNDOFF * 0.999)
    exact = float(w.double() @ x.double().T)
    rounded = float(w.bfloat16().double() @ x.bfloat16().double().T)
    assert rounded < exact * (1 - 1.9 * sparse_cpu.ROUNDOFF)
    weights = Weights(w, torch.tensor([-exact * (1 - 1e-6)]), torch.nn.functional.normalize(w, dim=1), torch.zeros(n))
    assert len(sparse_cpu.screen(weights, x)[1]) == 1


@pytest.mark.parametrize("bias", [0.0, -3.0])
def test_screened_encoding_equals_plain(bias):
    weights, x = problem(n_rows=2 * ROWS_AT_ONCE + 7, n_features=60, bias=bias)
    plain, screened = sparse_cpu.encode_plain(weights, x), sparse_cpu.encode_screened(weights, x)
    for a, b in zip(plain, screened, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("screened", [False, True])
def test_sparse_step_either_way_equals_numpy(screened, monkeypatch):
    monkeypatch.setattr(sparse_cpu, "multiplies_bfloat16", lambda: screened)
    weights, x = problem(bias=-2.0)
    exact = [np.asarray(w.double()) for w in weights]
    reference = numpy_reference.gradients(*exact, np.asarray(x.double()), 0.7)
    for ours, theirs in zip(sparse_step(weights, x, 0.7).gradients, reference, strict=True):
        assert relative(ours.numpy(), theirs) < 1e-5
