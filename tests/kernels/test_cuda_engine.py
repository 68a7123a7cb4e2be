"""Whole steps of the GPU engine, in Triton's interpreter on the CPU or on a GPU where there is one, against float64."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from sae.errors import ConfigError
from sae.kernels import triton_door
from sae.kernels.cuda import CudaEngine
from sae.kernels.dense import DenseEngine
from sae.kernels.gradients import Weights
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.state import State
from sae.kernels.triton_buffers import Sizes, Tuning, bytes_needed, kept, of_batch
from tests.kernels.triton_reference import D_MLP, N_FEATURES, N_ROWS, SMALL, forward_and_back, problem, relative, updated

needs_triton = pytest.mark.skipif(
    not (triton_door.RUNS_INTERPRETED or (triton_door.AVAILABLE and torch.cuda.is_available())),
    reason="needs triton (pip install triton==3.7.1 --no-deps): its interpreter, or a GPU",
)
DEVICE = "cuda" if torch.cuda.is_available() and not triton_door.RUNS_INTERPRETED else "cpu"
RECIPES = {
    "monosemanticity": (Objective(), UpdateRule()),
    "normalised before": (Objective(), UpdateRule(renormalise="before", betas=(0.0, 0.999))),
    "april2024": (Objective(tied_bias=False, weighted_l1=True), UpdateRule(unit_norm=False, max_gradient_norm=1.0)),
}
PATHS = {"sparse": ("auto", 0.5), "overflow": ("auto", 0.01), "dense": ("dense", 0.5)}


def engine(weights, recipe="monosemanticity", path="sparse", **options):
    state = State.start(Weights(*(w.to(DEVICE, copy=True) for w in weights)))
    kind, sparse_below = PATHS[path]
    return CudaEngine(state, *RECIPES[recipe], path=kind, sparse_below=sparse_below, tuning=SMALL, **options)


def tensors(engine):
    return {name: tensor.cpu().clone() for name, tensor in engine.state.tensors().items()}


QUICK = {("monosemanticity", "sparse"), ("april2024", "sparse"), ("monosemanticity", "overflow")}


@needs_triton
@pytest.mark.parametrize(
    ("recipe", "path"),
    [pytest.param(r, p, marks=[] if (r, p) in QUICK else pytest.mark.slow) for r in RECIPES for p in PATHS],
)
def test_two_steps_equal_float64_with_the_same_roundings(recipe, path):
    weights, x = problem()
    ours = engine(weights, recipe, path)
    objective, rule = RECIPES[recipe]
    for t, (l1, learning_rate) in enumerate([(0.7, 1e-2), (0.4, 3e-3)], start=1):
        before = tensors(ours)
        result = ours.step(x.to(DEVICE), l1, learning_rate)
        now = Weights(*(before[name] for name in Weights._fields))
        exact = forward_and_back(now, x, l1, objective, dense=path != "sparse")
        assert bool(result.finite)
        assert torch.equal(result.n_fired.cpu(), exact["n_fired"])
        for measured, name in ((result.squared_error, "squared_error"), (result.l1, "l1"), (result.gradient_norm, "norm")):
            assert float(measured) == pytest.approx(float(exact[name]), rel=1e-5), name
        expected = updated(before, exact["gradients"], exact["norm"], learning_rate, rule, t)
        after = tensors(ours)
        for name, value in expected.items():
            moved = (value - before[name].double()).abs().max()
            assert relative(after[name], value) < 2e-5, name
            assert float((after[name].double() - value).abs().max()) < 2e-3 * float(moved) + 1e-7, name


@needs_triton
@pytest.mark.parametrize("path", ["sparse", pytest.param("overflow", marks=pytest.mark.slow)])
def test_is_the_dense_engine_up_to_bfloat16(path):
    weights, x = problem(bias=-3.0)
    ours = engine(weights, path=path)
    dense = DenseEngine(State.start(Weights(*(w.clone() for w in weights))), *RECIPES["monosemanticity"])
    a, b = ours.step(x.to(DEVICE), 0.7, 1e-3), dense.step(x, 0.7, 1e-3)
    assert float(a.squared_error) == pytest.approx(float(b.squared_error), rel=1e-2)
    assert float(a.l1) == pytest.approx(float(b.l1), rel=1e-2)
    assert float(a.gradient_norm) == pytest.approx(float(b.gradient_norm), rel=1e-2)
    for name, tensor in tensors(ours).items():
        if name.startswith("first"):
            assert relative(tensor, dense.state.tensors()[name]) < 2e-2, name


@needs_triton
@pytest.mark.parametrize("path", ["sparse", "overflow"])
def test_only_the_path_that_the_count_asks_for_writes(path):
    """The dense gradients are poisoned: a sparse step leaves them, a batch over the capacity overwrites them all."""
    weights, x = problem()
    ours = engine(weights, path=path)
    buffers = ours._batch(N_ROWS, x.dtype).launches.tensors
    buffers["G_enc"].fill_(7.0)
    buffers["G_dec"].fill_(7.0)
    result = ours.step(x.to(DEVICE), 0.7, 1e-2)
    active = int(result.n_fired.sum())
    assert int(ours.active_entries(N_ROWS)) == active
    capacity = ours._batch(N_ROWS, x.dtype).launches.sizes.capacity
    assert (active <= capacity) == (path == "sparse")
    for name in ("G_enc", "G_dec"):
        assert bool((buffers[name] == 7.0).all()) == (path == "sparse")
        assert bool((buffers[name] == 7.0).any()) == (path == "sparse")


@needs_triton
def test_a_batch_that_just_fits_is_sparse_and_one_entry_more_is_not():
    weights, x = problem()
    active = int(engine(weights).step(x.to(DEVICE), 0.7, 1e-2).n_fired.sum())
    for capacity, dense in ((active, False), (active - 1, True)):
        ours = engine(weights)
        ours.sizes = replace(ours.sizes, sparse_below=(capacity - 0.5) / (N_ROWS * N_FEATURES))
        buffers = ours._batch(N_ROWS, x.dtype).launches.tensors
        buffers["G_enc"].fill_(7.0)
        ours.step(x.to(DEVICE), 0.7, 1e-2)
        assert bool((buffers["G_enc"] != 7.0).any()) == dense


@needs_triton
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")  # numpy's, interpreted
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sparse", float("nan")),
        pytest.param("sparse", float("inf"), marks=pytest.mark.slow),
        pytest.param("sparse", 1e25, marks=pytest.mark.slow),
        pytest.param("overflow", float("nan"), marks=pytest.mark.slow),
    ],
)
def test_nothing_changes_where_the_step_is_not_finite(path, value):
    weights, x = problem()
    ours = engine(weights, "april2024", path)
    ours.step(x.to(DEVICE), 0.7, 1e-2)
    before, copies = tensors(ours), {name: ours.kept[name].clone() for name in ("W_enc16", "W_dec16", "norms", "count")}
    x[17, 3] = value
    result = ours.step(x.to(DEVICE), 0.7, 1e-2)
    assert not bool(result.finite)
    assert not torch.isfinite(result.gradient_norm)
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(ours).items())
    assert all(torch.equal(copies[name], ours.kept[name]) for name in copies)
    ours.settle()
    assert ours.state.n_updates == 1


@needs_triton
@pytest.mark.parametrize("path", ["sparse", pytest.param("overflow", marks=pytest.mark.slow)])
def test_same_bits_twice(path):
    weights, x = problem()
    runs = []
    for _ in range(2):
        ours = engine(weights, path=path)
        runs.append((ours.step(x.to(DEVICE), 0.7, 1e-2), tensors(ours)))
    assert all(torch.equal(a, b) for a, b in zip(runs[0][0], runs[1][0], strict=True))
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])


@needs_triton
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_weight_that_is_nan_is_not_taken_for_an_inactive_feature():
    weights, x = problem()
    weights.b_enc[3] = float("nan")
    assert not bool(engine(weights).step(x.to(DEVICE), 0.7, 1e-2).finite)


@needs_triton
def test_a_feature_that_never_fires_stays():
    weights, x = problem()
    ours = engine(weights, "april2024")
    result = ours.step(x.to(DEVICE), 0.7, 1e-2)
    assert int(result.n_fired[-1]) == 0
    after = tensors(ours)
    for name in ("W_enc", "b_enc", "W_dec"):
        assert torch.equal(after[name][-1], getattr(weights, name)[-1])
        assert not after[f"first.{name}"][-1].any()


@needs_triton
def test_nothing_fires_at_all():
    weights, x = problem(bias=-1000.0)
    ours = engine(weights)
    result = ours.step(x.to(DEVICE), 0.7, 1e-2)
    assert float(result.l1) == 0.0
    exact = (x - weights.b_dec).double().square().sum() / N_ROWS
    assert float(result.squared_error) == pytest.approx(float(exact), rel=1e-6)


@needs_triton
def test_another_batch_size_and_bfloat16_rows():
    weights, x = problem(n_rows=19)
    x = x.bfloat16()
    result = engine(weights).step(x.to(DEVICE), 0.7, 1e-2)
    exact = forward_and_back(weights, x.float(), 0.7, Objective(), dense=False)
    assert float(result.squared_error) == pytest.approx(float(exact["squared_error"]), rel=1e-5)
    assert result.n_fired.tolist() == exact["n_fired"].tolist()


@needs_triton
def test_weights_changed_by_torch_are_noticed():
    """As resampling and loading change them: the copies in bfloat16 follow, and so does the count of updates."""
    weights, x = problem()
    ours = engine(weights)
    ours.step(x.to(DEVICE), 0.7, 1e-2)
    with torch.no_grad():
        ours.state.weights.b_enc.fill_(-1000.0)
        ours.state.weights.W_enc.zero_()
    ours.state.n_updates = 40
    assert int(ours.step(x.to(DEVICE), 0.7, 0.0).n_fired.sum()) == 0
    assert not ours.kept["W_enc16"].any()
    ours.settle()
    assert ours.state.n_updates == 41


@needs_triton
@pytest.mark.parametrize("path", PATHS)
def test_bytes_needed_are_the_bytes_allocated(path):
    weights, x = problem()
    ours = engine(weights, path=path)
    buffers = {**ours._batch(N_ROWS, x.dtype).launches.tensors, **ours.kept}
    own = set(buffers) - {name.replace(".", "_") for name in ours.state.tensors()}
    allocated = sum(buffers[name].numel() * buffers[name].itemsize for name in own)
    kind, sparse_below = PATHS[path]
    assert allocated == bytes_needed(N_ROWS, N_FEATURES, D_MLP, sparse_below=sparse_below, path=kind, tuning=SMALL)


def test_memory_at_scale():
    """n=2048, m=131,072, batch 8192: no buffer of rows x features, and under 5 GB beside the state's 6.4."""
    sizes = Sizes(n_rows=8192, n_features=131072, d_mlp=2048)
    for name, (shape, _) in (kept(sizes) | of_batch(sizes)).items():
        assert torch.Size(shape).numel() < 8192 * 131072 / 3, name
    assert bytes_needed(8192, 131072, 2048) < 5e9


@needs_triton
def test_refuses_what_it_cannot_do():
    weights, _ = problem()
    with pytest.raises(ConfigError, match=r"W_enc is torch\.float64"):
        CudaEngine(State.start(Weights(*(w.double() for w in weights))), Objective(), UpdateRule(), tuning=SMALL)
    with pytest.raises(ConfigError, match="at most 8192"):
        bytes_needed(1, 1, 10000)
    with pytest.raises(ConfigError, match="32-bit"):
        bytes_needed(2**20, 2**20, 8, sparse_below=0.5, tuning=Tuning())


def test_imports_without_triton_and_says_what_to_install():
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from sae.kernels.cuda import CudaEngine\n"
        "from sae.kernels.objective import Objective, UpdateRule\n"
        "from sae.errors import UnavailableError\n"
        "try:\n    CudaEngine(None, Objective(), UpdateRule())\n"
        "except UnavailableError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install triton==" in done.stdout
