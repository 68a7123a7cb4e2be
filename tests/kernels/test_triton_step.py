"""What each kernel leaves in its buffers, against float64 torch with the same roundings."""

import pytest
import torch

from sae.kernels import triton_encode
from sae.kernels.objective import Objective
from tests.kernels.test_cuda_engine import DEVICE, engine, needs_triton
from tests.kernels.triton_reference import N_ROWS, forward_and_back, problem, relative

pytestmark = needs_triton


@pytest.fixture(scope="module", params=["sparse", "overflow"])
def step(request):
    """Path, the engine and its buffers after one step at learning rate 0, and the reference."""
    weights, x = problem()
    ours = engine(weights, path=request.param)
    ours.step(x.to(DEVICE), 0.7, 0.0)
    batch = ours._batch(N_ROWS, x.dtype)
    buffers = {name: tensor.cpu() for name, tensor in batch.launches.tensors.items()}
    dense = request.param != "sparse"
    return request.param, batch.launches, buffers, forward_and_back(weights, x, 0.7, Objective(), dense=dense)


def test_centred_rows(step):
    _, _, buffers, exact = step
    assert torch.equal(buffers["seen"].double(), exact["seen"])


def test_g(step):
    _, _, buffers, exact = step
    assert relative(buffers["g"], exact["g"]) < 2**-8
    assert relative(buffers["column_sums"].sum(0), exact["g"].sum(0)) < 1e-2


def test_sums_that_gate_the_update(step):
    _, _, buffers, exact = step
    torch.testing.assert_close(buffers["totals"], exact["sums"], rtol=1e-5, atol=1e-9)


def test_gradient_of_b_dec(step):
    _, _, buffers, exact = step
    assert relative(buffers["gradient_b_dec"], exact["gradients"].b_dec) < 1e-5


def test_lists_by_row_and_by_feature(step):
    path, _, buffers, exact = step
    if path != "sparse":
        pytest.skip("the lists do not hold this batch")
    rows, features = exact["f"].nonzero(as_tuple=True)
    n = len(rows)
    assert torch.equal(buffers["list_features"][:n].long(), features)
    torch.testing.assert_close(buffers["list_values"][:n].double(), exact["f"][rows, features], rtol=1e-5, atol=1e-6)
    by_feature, by_row = exact["f"].T.nonzero(as_tuple=True)
    assert torch.equal(buffers["slot_rows"][:n].long(), by_row)
    torch.testing.assert_close(buffers["slot_values"][:n].double(), exact["f"][by_row, by_feature], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(buffers["slot_d"][:n].double(), exact["d"][by_row, by_feature], rtol=1e-4, atol=1e-6)


def test_lists_do_not_depend_on_the_order_in_which_tiles_finish(step):
    """The tiles' places in the pool dealt out backwards, as another order of the atomic additions would."""
    path, launches, buffers, _ = step
    if path != "sparse":
        pytest.skip("the lists do not hold this batch")
    t = launches.tensors
    size, base = t["tile_size"].cpu().long(), t["tile_base"].cpu()
    keys, values, place = t["pool_keys"].clone(), t["pool_values"].clone(), 0
    for tile in reversed(range(len(size))):
        n = int(size[tile])
        if n:
            old = slice(int(base[tile]), int(base[tile]) + n)
            t["pool_keys"][place : place + n] = keys[old]
            t["pool_values"][place : place + n] = values[old]
            t["tile_base"][tile] = place
            place += n
    names = ("list_features", "list_values", "list_slots", "slot_rows", "slot_values")
    for name in names:
        t[name].fill_(-1)
    tuning = launches.sizes.tuning
    launches.launch(triton_encode.place_kernel, (len(size),), {}, AT_ONCE=tuning.placed_at_once, FEATURES=tuning.features)
    n = int(size.sum())
    assert all(torch.equal(t[name][:n].cpu(), buffers[name][:n]) for name in names)


def test_dense_products(step):
    path, _, buffers, exact = step
    if path != "overflow":
        pytest.skip("not taken")
    for name, gradient in (("G_enc", exact["gradients"].W_enc), ("G_dec", exact["gradients"].W_dec)):
        assert relative(buffers[name], gradient) < 1e-4, name
    assert relative(buffers["tile_f"].sum(1), exact["f"].sum(0)) < 1e-5
    assert relative(buffers["tile_d"].sum(1), exact["d"].sum(0)) < 1e-5
    n_block = buffers["f16"].shape[0]
    assert n_block < N_ROWS
    assert N_ROWS % n_block, "the last block is to be a partial one"
    assert relative(buffers["f16"][: N_ROWS % n_block], exact["f"][-(N_ROWS % n_block) :]) < 2**-8
