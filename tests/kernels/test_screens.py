"""Each screen against the evaluation that it must not contradict: `keep_active` on every entry, where it is barely positive."""

import numpy as np
import pytest
import torch

from sae.kernels import native_bytes, native_lists, native_rows, screens
from sae.kernels.byte_screens import BytesScreen, ListsScreen, multiplies_bytes
from sae.kernels.gradients import Weights
from sae.kernels.instructions import COLUMN, GROUP, GROUP_ROWS, PANEL, TOGETHER, dot_product_bits
from sae.kernels.native_bytes import aligned_zeros
from sae.kernels.screens import Bfloat16Screen, SparseRowsScreen
from sae.kernels.sparse_cpu import BLOCK_ROWS
from tests.support.problems import SCREENS, problem

needs_bytes = pytest.mark.skipif(not multiplies_bytes(), reason="needs AVX2")
SCALES = [1e-3, 1.0, 1e3]
LOW = [d for d in range(4 * TOGETHER) if d % 4 < 2]
"""Entries whose products `screen_bytes` adds in 16 bits."""


def evaluated(weights, seen):
    """What the step computes for every entry: ReLU(W_enc x̄ + b_enc) [row, feature], in float32 and in its order."""
    n_rows, n_features = len(seen), len(weights.b_enc)
    found = np.tile(np.arange(n_features, dtype=np.int32), n_rows)
    ends = np.arange(0, found.size + 1, n_features)[None].copy()
    features, stops = np.empty(n_features, np.int32), np.empty(n_features, np.int32)
    rows, f, fired = np.empty(found.size, np.int32), np.empty(found.size, np.float32), np.empty(n_features, np.int64)
    given = (seen.numpy(), weights.W_enc.numpy(), weights.b_enc.numpy(), 0, found, ends)
    n = native_rows.keep_active(*given, fired, features, stops, rows, f)
    owner = np.repeat(features[:n], np.diff(stops[:n], prepend=0))
    out = np.zeros((n_rows, n_features), np.float32)
    out[rows[: len(owner)], owner] = f[: len(owner)]
    assert (fired == (out > 0).sum(0)).all()
    return out


def products(weights, seen):
    """Σ x̄ w as `keep_active` sums it: the positive ones, and the negative ones with the sign of W_enc turned."""
    zero = torch.zeros_like(weights.b_enc)
    return evaluated(weights._replace(b_enc=zero), seen) - evaluated(Weights(-weights.W_enc, zero, *weights[2:]), seen)


def barely(weights, seen, rows=None):
    """`weights` with b_enc such that feature i is positive by the smallest amount on row `rows[i]` (row i unless told)."""
    features = np.arange(len(weights.b_enc))
    chosen = products(weights, seen)[features if rows is None else rows, features]
    return weights._replace(b_enc=torch.from_numpy(np.nextafter(-chosen, np.float32(np.inf))))


def candidates(kind, weights, x, *, tied):
    """What a screen lets through, bool [row, feature]; every group of rows, block and tile as the step goes through them."""
    screen = kind(len(weights.b_enc))
    seen = x - weights.b_dec if tied else x
    norms, bits = weights.W_enc.norm(dim=1).numpy(), weights.W_enc.bfloat16().view(torch.uint16).numpy()
    screen.prepare(weights, x, seen, norms, bits)
    out = torch.zeros(len(x), len(weights.b_enc), dtype=torch.bool)
    for start in range(0, len(x), min(screen.group_rows, len(x))):
        group = slice(start, min(start + screen.group_rows, len(x)))
        for tile in range(len(screen.tiles)):
            screen.multiply(group, tile)
            for first in range(group.start, group.stop, BLOCK_ROWS):
                rows = slice(first, min(first + BLOCK_ROWS, group.stop))
                found, ends = np.empty(1 << 20, np.int32), np.zeros(rows.stop - rows.start + 1, np.int64)
                assert screen.scan(rows, first - start, tile, found, ends) == ends[-1]
                owner = np.repeat(np.arange(rows.start, rows.stop), np.diff(ends))
                out[owner, found[: ends[-1]]] = True
    return out.numpy()


def mostly_zeros(x, fraction=0.1):
    """`x` with all but a fraction of its entries zero, as after a ReLU."""
    return x * (torch.rand(x.shape, generator=torch.Generator().manual_seed(9)) < fraction)


@pytest.mark.parametrize("kind", SCREENS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("seed", range(3))
def test_no_active_entry_is_missed(kind, tied, scale, seed, monkeypatch):
    """One row a feature barely positive, the others as they come; d_mlp and widths are no multiples of anything. Rows grow by
    ten thousand from first to last, so that another row's bound would not do."""
    monkeypatch.setattr(kind, "tile_features", 101)
    weights, x = problem(n_rows=250, n_features=235, d_mlp=93, seed=seed)
    x = (mostly_zeros(x) if seed == 2 else x) * torch.logspace(-2, 2, 250)[:, None] * scale
    weights = weights._replace(b_dec=weights.b_dec * scale)
    seen = x - weights.b_dec if tied else x
    weights = barely(weights, seen)
    active = evaluated(weights, seen) > 0
    assert active[np.arange(235), np.arange(235)].all(), "the problem is not the one meant"
    assert not (active & ~candidates(kind, weights, x, tied=tied)).any()


@pytest.mark.parametrize("kind", SCREENS)
@pytest.mark.parametrize("scale", SCALES)
def test_what_is_surely_inactive_is_let_out(kind, scale):
    """Nothing further below zero than twice the bound is a candidate; otherwise a screen could pass by letting all through."""
    weights, x = problem(n_rows=200, n_features=130, d_mlp=512)
    weights, x = weights._replace(b_dec=weights.b_dec * scale, b_enc=weights.b_enc * scale), mostly_zeros(x) * scale
    if kind in (BytesScreen, ListsScreen):  # whose bound is by what rounding lost: least where the least entry is zero
        x = x.abs()
    pre = (x - weights.b_dec).double() @ weights.W_enc.double().T + weights.b_enc.double()
    width = (x - weights.b_dec).norm(dim=1)[:, None] * weights.W_enc.norm(dim=1)
    relative = {Bfloat16Screen: 0.03, BytesScreen: 0.045, ListsScreen: 0.045}.get(kind, 1e-3)
    below = (pre < -relative * width).numpy()
    assert below.mean() > 0.1
    assert not (below & candidates(kind, weights, x, tied=True)).any()


def test_bfloat16_in_the_worst_case():
    """Both inputs and the result are rounded down as far as they can be: just below halfway, and 514 of them to 512."""
    n = 514
    w = torch.full((70, n), 1 + screens.BFLOAT16 * 0.999)  # as many as fill a group of features that are scanned at once
    exact, rounded = w.double() @ w.double().T, torch.mm(w.bfloat16(), w.bfloat16().T)
    assert (rounded < exact * (1 - 2.9 * screens.BFLOAT16)).all()
    weights = barely(Weights(w, torch.zeros(70), w, torch.zeros(n)), w)
    assert (evaluated(weights, w) > 0).all()
    assert candidates(Bfloat16Screen, weights, w.clone(), tied=False).all()


@needs_bytes
@pytest.mark.parametrize("kind", [BytesScreen, ListsScreen])
@pytest.mark.parametrize("places", [LOW, LOW[:4], [2, 3, 6, 7], [0, 1], [9], list(range(80)), list(range(0, 80, 3))])
@pytest.mark.parametrize("low", [0.0, -3.0])
def test_bytes_that_fill_16_bits(kind, places, low):
    """The greatest entries of x where several products are added in 16 bits, and encoders of ±1, whose levels are the greatest: a
    sum that overflows would be lost."""
    x = torch.full((37, 80), low)
    x[:, places] = torch.linspace(1, 2, 37)[:, None]
    w = torch.ones(50, 80) * torch.where(torch.arange(50) % 3 > 0, 1.0, -1.0)[:, None]
    weights = barely(Weights(w, torch.zeros(50), w, torch.zeros(80)), x, rows=np.arange(50) % 37)
    active = evaluated(weights, x) > 0
    found = candidates(kind, weights, x, tied=False)
    assert 0 < active.sum() < active.size
    assert not (active & ~found).any()


@pytest.mark.parametrize("kind", SCREENS)
@pytest.mark.parametrize("small", [0.002, 0.01, 0.04, 0.1])
def test_many_small_entries_count(kind, small):
    """Beside one great entry, as many small ones as add up to something: rounded to level 0 or not, none may be forgotten.
    Encoders of ones lose nothing by rounding that would make up for it."""
    x = torch.full((40, 400), small)
    x[torch.arange(40), torch.arange(0, 400, 10)] = 1
    W = torch.ones(40, 400)
    weights = barely(Weights(W, torch.zeros(40), W, torch.zeros(400)), x)
    assert (evaluated(weights, x).diagonal() > 0).all()
    assert candidates(kind, weights, x.clone(), tied=False).diagonal().all()


@needs_bytes
@pytest.mark.parametrize("n_groups", [1, 2, 9])
def test_products_of_lists_are_exact(n_groups):
    """Σ levels · bytes in whole numbers, by numpy: a threshold half above it lets nothing through, one half below it everything.
    Levels fill each group's 258, and encoders are as great as they can be in half of the features."""
    chance, n_pairs, n_features = np.random.default_rng(n_groups), 70, COLUMN
    encoders = chance.integers(-127, 128, (n_features, 2 * n_pairs)).astype(np.int8)
    encoders[::2] = np.where(chance.random((n_features // 2, 1)) < 0.5, 127, -127)
    encoders[:, 0] = 127  # the scale
    columns = aligned_zeros((1, n_pairs + 1, 2 * COLUMN), np.int8)
    constants = np.empty((4, n_features), np.float32)
    W, centre = encoders.astype(np.float32) / 127, np.zeros(2 * n_pairs, np.float32)
    order = np.arange(2 * n_pairs)
    native_lists.features_to_columns(W, 0, n_features, order, centre, columns, *constants, np.empty(n_features))
    pairs = chance.permutation(n_pairs)[: n_groups * GROUP]
    levels = chance.multinomial(258, np.full(2 * GROUP, 1 / (2 * GROUP)), n_groups).reshape(-1, 2)
    row = np.zeros(2 * n_pairs, np.int64)
    row[2 * pairs], row[2 * pairs + 1] = levels.T
    words = ((levels[:, 0] | levels[:, 1] << 8) * 65537).astype(np.uint32)[None]
    lists = ((pairs * 2 * COLUMN).astype(np.int32)[None], words, np.array([n_groups]))
    whole = encoders.astype(np.int64) @ row
    for shift, wanted in [(-0.5, n_features), (0.5, 0)]:
        of_columns = np.zeros((1, 5, COLUMN), np.float32)
        of_columns[0, 0], of_columns[0, 4] = 1, whole + shift
        found, ends = np.empty(1000, np.int32), np.zeros(2, np.int64)
        of_rows = np.array([[[1, 0, 0, 0]]], np.float32)
        assert native_lists.scan_lists(lists, of_rows, columns, of_columns, 0, 1, 0, COLUMN, found, ends) == wanted
        assert (found[:wanted] == np.arange(wanted)).all()


def packed_bytes(x, W):
    """What `BytesScreen` makes of rows and encoders, as they lie, and the levels in them: uint8 [row, d], int8 [feature, d]."""
    n_rows, n_features, n_quads = len(x), len(W), -(-x.shape[1] // (4 * TOGETHER)) * TOGETHER
    rows = np.zeros((n_rows // GROUP_ROWS, n_quads, GROUP_ROWS), np.uint32)
    panels = aligned_zeros((n_features // PANEL, n_quads, PANEL), np.uint32)
    native_bytes.rows_to_bytes(x, 0, n_rows, native_bytes.ROW_ROOM, rows, *np.empty((4, n_rows), np.float32))
    out = (*np.empty((4, n_features), np.float32), np.empty(n_features))
    room, centre = native_bytes.ENCODER_ROOM, np.zeros(x.shape[1], np.float32)
    native_bytes.features_to_bytes(W, 0, n_features, room, centre, panels, *out)
    u = np.ascontiguousarray(rows.swapaxes(1, 2)).view(np.uint8).reshape(n_rows, -1)
    v = np.ascontiguousarray(panels.swapaxes(1, 2)).view(np.int8).reshape(n_features, -1)
    return rows, panels, u, v


@pytest.mark.skipif(not multiplies_bytes() or bool(dot_product_bits()), reason="needs AVX2, and no vpdpbusd")
@pytest.mark.parametrize("shape", ["even", "one", "few", "any"])
def test_products_of_bytes_are_exact(shape):
    """Σ levels · bytes in whole numbers, by numpy, where what is added in 16 bits points the same way in rows and encoders, or
    the opposite one, and is as long as it may be: a threshold half above the sum lets nothing through, one half below it all."""
    chance, n, width = np.random.default_rng(5), 2 * GROUP_ROWS, 2 * 4 * TOGETHER
    few = {"even": np.arange(width) >= 0, "one": np.arange(width) == 5, "few": np.arange(width) % 4 == 1}.get(shape)
    lines = chance.random((n, width)) * (chance.random((n, width)) < 0.5 if few is None else few)
    if shape in ("even", "few"):
        lines = np.ceil(lines)
    lines[:, -1] = 0  # the least
    x, W = lines.astype(np.float32), np.zeros((2 * PANEL, width), np.float32)
    W[:n], W[n : 2 * n] = x, -x
    rows, panels, u, v = packed_bytes(x, W)
    lanes = [levels.astype(np.int64).reshape(len(levels), -1, TOGETHER, 2, 2) for levels in (u, v)]
    norms = [np.sqrt((lane**2).sum((2, 4))).max() for lane in lanes]
    assert 0.8 * 32_767 < norms[0] * norms[1] <= 32_767 or shape == "one", "room is used, and no more than there is"
    whole = u.astype(np.int64) @ v.astype(np.int64).T
    of_rows = np.zeros((2, GROUP_ROWS, 4), np.float32)
    of_rows[:, :, 0] = 1
    for row in range(n):
        for shift, wanted in [(-0.5, 2 * PANEL), (0.5, 0)]:
            of_panels = np.zeros((2, 5, PANEL), np.float32)
            of_panels[:, 0], of_panels[:, 4] = 1, (whole[row] + shift).reshape(2, PANEL)
            found, ends = np.empty(1000, np.int32), np.zeros(n + 1, np.int64)
            native_bytes.scan_bytes(rows, of_rows, panels, of_panels, 0, n, 0, 2 * PANEL, found, ends)
            assert ends[row + 1] - ends[row] == wanted


@needs_bytes
def test_neurons_that_are_often_zero_are_paired():
    """Every second neuron is zero throughout: half of the pairs are listed, not all of them."""
    weights, x = problem(n_rows=30, n_features=20, d_mlp=48)
    x = x.abs()
    x[:, ::2] = 0
    screen = ListsScreen(20)
    screen.prepare(weights, x, x, weights.W_enc.norm(dim=1).numpy(), np.empty((0, 48), np.uint16))
    assert (screen._rows[0][2] == 12 // GROUP).all()


@needs_bytes
@pytest.mark.parametrize("kind", [BytesScreen, ListsScreen])
@pytest.mark.parametrize("tied", [True, False])
def test_bytes_of_rows_beyond_the_limit(kind, tied):
    """Where scales and norms might overflow nothing is ruled out; rows beside them are screened as ever."""
    weights, x = problem(n_rows=40, n_features=70, d_mlp=20, bias=-20.0)
    x[3], x[5, 2], x[7], x[9, 0] = x[3] * 1e31, 3e38, -3e38, float("nan")
    found = candidates(kind, weights, x, tied=tied)
    assert found[[3, 5, 7, 9]].all()
    assert not found[[2, 4, 6, 8]].all()
    active = evaluated(weights, x - weights.b_dec if tied else x) > 0
    assert not (active & ~found).any()


@pytest.mark.parametrize("kind", SCREENS)
def test_accumulation_in_the_worst_case(kind):
    """One product of 2²⁴ swallows every quarter that is added to it, alone or by fours: each order of summation loses others of
    the 511. Entry (i, i) has the great one at place i, so it goes to every place of a register and of a block."""
    n = 512
    x = torch.full((n, n), 0.5).fill_diagonal_(2.0**12)
    weights = barely(Weights(x, torch.zeros(n), x, torch.zeros(n)), x)
    assert (evaluated(weights, x).diagonal() > 0).all()
    assert candidates(kind, weights, x.clone(), tied=False).diagonal().all()


@pytest.mark.parametrize("seed", range(3))
def test_sparse_rows_where_the_bias_cancels_x(seed):
    """x and b_dec nearly equal: x·w and b_dec·w are rounded at their own size, a million times that of what is left."""
    weights, x = problem(n_rows=150, n_features=150, d_mlp=24, seed=seed)
    b_dec = mostly_zeros(weights.b_dec[None], 0.5)[0] * 1e3
    x = b_dec * (1 + 1e-6 * x)
    weights = barely(weights._replace(b_dec=b_dec), x - b_dec)
    active = evaluated(weights, x - b_dec) > 0
    assert active.any()
    assert not (active & ~candidates(SparseRowsScreen, weights, x, tied=True)).any()


@pytest.mark.parametrize("kind", SCREENS)
@pytest.mark.parametrize("scale", [1e-24, 1e-30])
def test_rows_whose_squares_underflow(kind, scale):
    """‖x‖ in float32 is then 0, and a bound that is a multiple of it with it."""
    weights, x = problem(n_rows=200, n_features=200, d_mlp=93)
    x, weights = x * scale, weights._replace(b_dec=weights.b_dec * scale)
    weights = barely(weights._replace(W_enc=weights.W_enc * 1e12), x - weights.b_dec)
    active = evaluated(weights, x - weights.b_dec) > 0
    assert active.any()
    assert not (active & ~candidates(kind, weights, x, tied=True)).any()


@pytest.mark.parametrize("kind", SCREENS)
def test_encoders_whose_squares_underflow(kind):
    weights, x = problem(n_rows=200, n_features=200, d_mlp=93)
    weights = barely(weights._replace(W_enc=weights.W_enc * 1e-24), x * 1e12 - weights.b_dec)
    active = evaluated(weights, x * 1e12 - weights.b_dec) > 0
    assert active.any()
    assert not (active & ~candidates(kind, weights, x * 1e12, tied=True)).any()


def test_a_short_buffer_is_refused_before_anything_is_lost():
    """−1 and nothing else; with room for one more row's width it goes on."""
    weights, x = problem(n_rows=3, n_features=40)
    weights = weights._replace(b_enc=weights.b_enc + 1000)
    for kind in SCREENS:
        screen = kind(40)
        screen.prepare(weights, x, x, weights.W_enc.norm(dim=1).numpy(), weights.W_enc.bfloat16().view(torch.uint16).numpy())
        screen.multiply(slice(0, 3), 0)
        ends = np.zeros(4, np.int64)
        assert screen.scan(slice(0, 3), 0, 0, np.empty(119, np.int32), ends) == -1
        assert screen.scan(slice(0, 3), 0, 0, np.empty(120, np.int32), ends) == 120
        assert ends.tolist() == [0, 40, 80, 120]


@pytest.mark.parametrize("n_nonzero", range(10))
def test_places_of_nonzero_entries(n_nonzero):
    """Numbers that are no multiple of four, too: the sparse product takes four at once."""
    x = torch.zeros(300, 12)
    x[:, torch.randperm(12, generator=torch.Generator().manual_seed(n_nonzero))[:n_nonzero]] = 2.0
    places, counts = screens.nonzero_places(x.numpy())
    assert (counts == n_nonzero).all()
    for row in range(300):
        assert places[row, :n_nonzero].tolist() == torch.nonzero(x[row])[:, 0].tolist()
