"""The update's kernels: fused equals gathered and applied, and what screens use stays beside the weights."""

import numpy as np
import pytest
import torch

from sae.kernels import native_features
from sae.kernels.objective import UpdateRule
from sae.kernels.screens import Float32Screen
from sae.kernels.sparse_cpu import SparseForward
from sae.kernels.update_cpu import BLOCK_FEATURES, CpuUpdate
from tests.support.problems import OBJECTIVES, fresh_state, problem, reference_run, relative, uneven_norms

N_FEATURES = 2 * BLOCK_FEATURES + 11
RULES = [
    UpdateRule(renormalise="after"),
    UpdateRule(renormalise="before"),
    UpdateRule(unit_norm=False, betas=(0.8, 0.95), eps=1e-6),
]


def prepared(objective, rule, n_updates=3):
    """An update with moments that are not zero, and entries for it."""
    weights, x = problem(n_rows=150, n_features=N_FEATURES, d_mlp=37, bias=-4.0, norms=uneven_norms(N_FEATURES))
    state = fresh_state(weights)
    generator = torch.Generator().manual_seed(1)
    for first, second in zip(state.first, state.second, strict=True):
        first.copy_(torch.randn(first.shape, generator=generator) * 0.01)
        second.copy_(torch.rand(first.shape, generator=generator) * 0.01)
    state.n_updates = n_updates
    update = CpuUpdate(state, objective, rule, keep_bits=True)
    entries = SparseForward(objective)(state.weights, x, 0.3, Float32Screen(N_FEATURES), update.norms, update.bits)
    return update, entries, x


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("rule", RULES)
def test_fused_equals_gathered_and_applied(objective, rule):
    fused, entries, x = prepared(objective, rule)
    norm = fused.fused(entries, 0.3 / len(x), 1e-2)
    gathered, entries, _ = prepared(objective, rule)
    gradients, other_norm = gathered.gradients(entries, 0.3 / len(x))
    assert norm == pytest.approx(other_norm, rel=1e-6)
    assert norm == pytest.approx(np.sqrt(sum(g.double().square().sum().item() for g in gradients)), rel=1e-5)
    gathered.apply(gradients, other_norm, 1e-2)
    for name, tensor in fused.state.tensors().items():
        assert relative(tensor, gathered.state.tensors()[name]) < 1e-6, name
    assert fused.state.n_updates == gathered.state.n_updates == 4


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("limit", [None, 0.5, 1e6])
def test_apply_equals_numpy(rule, limit):
    """Gradients out of the blue, so that each is its own; clipping that bites and clipping that does not."""
    rule = UpdateRule(unit_norm=rule.unit_norm, renormalise=rule.renormalise, max_gradient_norm=limit)
    weights, _ = problem(n_features=N_FEATURES, d_mlp=37)
    update = CpuUpdate(fresh_state(weights), OBJECTIVES[0], rule, keep_bits=False)
    reference = reference_run(weights, OBJECTIVES[0], rule)
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        gradients = type(weights)(*(torch.randn(w.shape, generator=generator) for w in weights))
        in_numpy = [g.double().numpy() for g in gradients]
        norm = float(np.sqrt(sum((g**2).sum() for g in in_numpy)))
        reference.apply(in_numpy, 1e-2)
        update.apply(gradients, norm, 1e-2)
    for ours, theirs, start in zip(update.state.weights, reference.parameters, weights, strict=True):
        assert relative(ours - start, theirs - start.double().numpy()) < 1e-4
    for ours, theirs in zip((*update.state.first, *update.state.second), (*reference.adam.m, *reference.adam.v), strict=True):
        assert relative(ours, theirs) < 1e-5


@pytest.mark.parametrize("way", ["fused", "applied"])
def test_norms_and_bits_follow_the_weights(way):
    update, entries, x = prepared(OBJECTIVES[0], RULES[0])
    if way == "fused":
        update.fused(entries, 0.3 / len(x), 1e-2)
    else:
        update.apply(*update.gradients(entries, 0.3 / len(x)), 1e-2)
    W_enc = update.state.weights.W_enc
    np.testing.assert_allclose(update.norms, W_enc.double().norm(dim=1).numpy(), rtol=1e-6)
    assert np.array_equal(update.bits, W_enc.bfloat16().view(torch.uint16).numpy())


def test_refresh_after_a_change_from_outside():
    update, *_ = prepared(OBJECTIVES[0], RULES[0])
    W_enc = update.state.weights.W_enc
    W_enc.mul_(-3)
    assert not np.array_equal(update.bits, W_enc.bfloat16().view(torch.uint16).numpy())
    update.refresh()
    np.testing.assert_allclose(update.norms, W_enc.double().norm(dim=1).numpy(), rtol=1e-6)
    assert np.array_equal(update.bits, W_enc.bfloat16().view(torch.uint16).numpy())


def test_no_bits_are_kept_where_no_screen_wants_them():
    weights, _ = problem()
    update = CpuUpdate(fresh_state(weights), OBJECTIVES[0], RULES[0], keep_bits=False)
    assert len(update.bits) == 0
    update.refresh()
    assert len(update.norms) == 24


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rows_stay_on_the_unit_sphere(objective):
    update, entries, x = prepared(objective, UpdateRule())
    update.fused(entries, 0.3 / len(x), 1e-2)
    norms = update.state.weights.W_dec.double().norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-6, atol=0)


def test_a_row_of_zeros_stays_where_rows_are_normalised():
    row = np.zeros(5, np.float32)
    native_features.normalise(row, np.float32(0))
    assert not row.any()


def test_rounding_to_bfloat16_equals_torch():
    """Ties to even, carries into the exponent, denormals, signs; everything finite."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31 - 1, (20_000,), generator=generator, dtype=torch.int64).to(torch.int32)
    ties = (torch.arange(-3000, 3000, dtype=torch.int32) << 16) + 0x8000
    values = torch.cat([bits, ties, ties + 1, ties - 1]).view(torch.float32)
    values = values[values.isfinite()]
    out = np.empty(len(values), np.uint16)
    native_features.to_bfloat16(values.numpy(), out)
    assert np.array_equal(out, values.bfloat16().view(torch.uint16).numpy())
