"""The sparse step's entries and gradients against float64 numpy, over blocks, groups and tiles, with each screen."""

import numpy as np
import pytest
import torch

from sae.kernels import sparse_cpu
from sae.kernels.screens import Float32Screen, SparseRowsScreen
from sae.kernels.sparse_cpu import BLOCK_ROWS, SparseForward
from sae.kernels.update_cpu import CpuUpdate
from tests.support import numpy_reference
from tests.support.problems import (
    APRIL_2024,
    FREE_RULE,
    MONOSEMANTICITY,
    OBJECTIVES,
    SCREENS,
    away_from_zero,
    doubles,
    flags,
    fresh_state,
    problem,
    relative,
    uneven_norms,
)


def sparse_entries(weights, x, l1, objective, kind=Float32Screen, forward=None):
    """(entries, the update that they are meant for): the sparse step up to its gradients."""
    update = CpuUpdate(fresh_state(weights), objective, FREE_RULE, keep_bits=True)
    forward = forward or SparseForward(objective)
    return forward(weights, x, l1, kind(len(weights.b_enc)), update.norms, update.bits), update


def sparse_gradients(weights, x, l1, objective, kind=Float32Screen):
    entries, update = sparse_entries(weights, x, l1, objective, kind)
    gradients, norm = update.gradients(entries, l1 / len(x))
    return entries, gradients, norm


def assert_equals_numpy(weights, x, l1, objective, kind):
    assert away_from_zero(weights, x, objective)
    entries, gradients, norm = sparse_gradients(weights, x, l1, objective, kind)
    reference = numpy_reference.gradients(*doubles(weights), x.double().numpy(), l1, **flags(objective))
    for ours, theirs in zip(gradients, reference, strict=True):
        assert relative(ours, theirs) < 1e-5
    assert norm == pytest.approx(numpy_reference.total_norm(reference), rel=1e-5)
    squared_error, mean_l1, n_fired = numpy_reference.parts(*doubles(weights), x.double().numpy(), **flags(objective))
    assert (entries.squared_error, entries.l1) == pytest.approx((squared_error, mean_l1), rel=1e-5)
    assert entries.n_fired.tolist() == n_fired.tolist()
    assert entries.bound >= max(np.abs(theirs).max() for theirs in reference)


@pytest.mark.parametrize("kind", SCREENS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("bias", [0.0, -4.0])
def test_gradients_equal_float64_numpy(objective, bias, kind):
    weights, x = problem(bias=bias, norms=uneven_norms(24))
    assert_equals_numpy(weights, x, 0.7, objective, kind)


@pytest.mark.parametrize("kind", SCREENS)
@pytest.mark.parametrize("objective", [MONOSEMANTICITY, APRIL_2024])
def test_gradients_over_blocks_groups_and_tiles(objective, kind, monkeypatch):
    """Rows: nine blocks and a part of one, in two groups or three; features: two tiles and a part, no multiple of 32 or 64."""
    monkeypatch.setattr(kind, "tile_features", 70)
    weights, x = problem(n_rows=9 * BLOCK_ROWS + 7, n_features=159, d_mlp=37, bias=-9.0, norms=uneven_norms(159))
    assert_equals_numpy(weights, x, 0.3, objective, kind)


@pytest.mark.parametrize("kind", SCREENS)
def test_one_row(kind):
    weights, x = problem(n_rows=1, n_features=70)
    assert_equals_numpy(weights, x, 0.7, MONOSEMANTICITY, kind)


@pytest.mark.parametrize("kind", SCREENS)
@pytest.mark.parametrize("objective", [MONOSEMANTICITY, APRIL_2024])
def test_where_everything_fires(kind, objective):
    weights, x = problem(n_rows=150, n_features=70, bias=100.0)
    entries, *_ = sparse_entries(weights, x, 0.7, objective, kind)
    assert (entries.n_fired == 150).all()
    assert_equals_numpy(weights, x, 0.7, objective, kind)


@pytest.mark.parametrize("kind", SCREENS)
@pytest.mark.parametrize("objective", [MONOSEMANTICITY, APRIL_2024])
def test_where_nothing_fires(kind, objective):
    weights, x = problem(bias=-1000.0)
    entries, gradients, _ = sparse_gradients(weights, x, 0.3, objective, kind)
    assert not entries.n_fired.any()
    assert entries.l1 == 0
    assert not gradients.W_enc.any()
    assert not gradients.b_enc.any()
    assert not gradients.W_dec.any()
    torch.testing.assert_close(gradients.b_dec, 2 * (weights.b_dec - x).mean(0), rtol=1e-5, atol=1e-6)


def test_entries_lie_by_feature_in_the_order_of_rows():
    """That order is what fixes the bits of a feature's sums."""
    weights, x = problem(n_rows=2 * BLOCK_ROWS + 7, n_features=60, bias=-3.0)
    entries, _ = sparse_entries(weights, x, 0.3, MONOSEMANTICITY)
    pre = numpy_reference.pre_activations(*doubles(weights), x.double().numpy())
    for feature in range(60):
        lot = slice(entries.starts[feature], entries.starts[feature + 1])
        assert entries.lists[0][lot].tolist() == np.nonzero(pre[:, feature] > 0)[0].tolist()
        assert relative(entries.lists[1][lot], pre[:, feature][pre[:, feature] > 0]) < 1e-5


@pytest.mark.parametrize("n_rows", [1, 7, BLOCK_ROWS - 1])
def test_no_row_feels_the_others_of_its_block(n_rows, monkeypatch):
    """Blocks are evaluated and decoded feature by feature: f, g and d have the bits that they have in blocks of another size."""
    weights, x = problem(n_rows=BLOCK_ROWS + 40, n_features=60, d_mlp=77, bias=-3.0)
    together, _ = sparse_entries(weights, x, 0.3, MONOSEMANTICITY)
    monkeypatch.setattr(sparse_cpu, "BLOCK_ROWS", n_rows)
    apart, _ = sparse_entries(weights, x, 0.3, MONOSEMANTICITY)
    n = together.starts[-1]
    assert np.array_equal(together.starts, apart.starts)
    assert all(np.array_equal(a[:n], b[:n]) for a, b in zip(together.lists, apart.lists, strict=True))
    assert np.array_equal(together.g, apart.g)
    assert together.l1 == pytest.approx(apart.l1, rel=1e-12)


@pytest.mark.parametrize("kind", SCREENS)
def test_a_short_buffer_loses_nothing(kind, monkeypatch):
    """Blocks that begin with room for one candidate grow until all fit, tile after tile."""
    monkeypatch.setattr(kind, "tile_features", 30)
    weights, x = problem(n_rows=2 * BLOCK_ROWS + 7, n_features=100, bias=-1.0)
    roomy, gradients, _ = sparse_gradients(weights, x, 0.3, MONOSEMANTICITY, kind)
    start = sparse_cpu._Block.__init__
    monkeypatch.setattr(sparse_cpu._Block, "__init__", lambda block, *sizes: start(block, *sizes[:-1], 1))
    tight, again, _ = sparse_gradients(weights, x, 0.3, MONOSEMANTICITY, kind)
    assert tight.n_fired.sum() > 2 * BLOCK_ROWS
    assert np.array_equal(roomy.starts, tight.starts)
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))


def test_buffers_are_fit_for_the_next_batch():
    """Batches of other lengths, screens with other tiles, more entries than before: nothing of the last batch is left over."""
    forward = SparseForward(MONOSEMANTICITY)
    weights, x = problem(n_rows=400, n_features=600, bias=-3.0)
    denser = weights._replace(b_enc=weights.b_enc + 4)
    for n_rows, kind, now in [
        (400, Float32Screen, weights),
        (130, Float32Screen, weights),
        (400, SparseRowsScreen, weights),
        (400, SparseRowsScreen, denser),
        (400, Float32Screen, weights),
    ]:
        kept, _ = sparse_entries(now, x[:n_rows], 0.3, MONOSEMANTICITY, kind, forward)
        fresh, _ = sparse_entries(now, x[:n_rows], 0.3, MONOSEMANTICITY, kind)
        assert np.array_equal(kept.starts, fresh.starts)
        for a, b in zip(kept.lists, fresh.lists, strict=True):
            assert np.array_equal(a[: kept.starts[-1]], b[: fresh.starts[-1]])
        assert np.array_equal(kept.g, fresh.g)


def test_nothing_is_as_large_as_all_activations():
    """Memory: on the sparse path every buffer that lasts is far below rows x features but the tile of one group."""
    weights, x = problem(n_rows=4096, n_features=2048, d_mlp=16, bias=-20.0)
    forward = SparseForward(MONOSEMANTICITY)
    entries, _ = sparse_entries(weights, x, 0.3, MONOSEMANTICITY, forward=forward)
    assert 0 < entries.n_fired.sum() < 0.03 * 4096 * 2048
    kept = sum(block.found.nbytes + block.f.nbytes + block.d.nbytes + block.ends.nbytes for block in forward._blocks)
    assert kept + sum(part.nbytes for part in entries.lists) < 0.5 * 4096 * 2048 * 4
