"""What lies around the GPU engine's kernels: the device they are launched on, and graphs: beside other threads, or where none
can be made. On a pretended device, with Triton's interpreter in the place of a compiler."""

import threading

import pytest
import torch

from sae.errors import ConfigError
from sae.kernels import triton_door
from sae.kernels.cuda import CudaEngine
from sae.kernels.gpu_check import PATHS, TOLERANCES, Asked, differences, examined
from sae.kernels.gradients import Weights
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.state import State
from tests.kernels.triton_reference import SMALL
from tests.support.pretended_device import pretended

needs_interpreter = pytest.mark.skipif(not triton_door.RUNS_INTERPRETED, reason="needs Triton's interpreter")
CHECKED = Asked(
    device="cuda", d_mlp=7, objective=Objective(), rule=UpdateRule(), n_rows=20, n_features=20, sparse_below=0.1, tuning=SMALL
)
RATES = [(0.7, 1e-2), (0.4, 3e-3), (0.5, 1e-3)]


def engine(device, **options):
    """At one tile of rows, of features and of columns: the interpreter's time is a tile's."""
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(12, 7, generator=generator), dim=1)
    weights = Weights(W_dec.clone(), torch.full((12,), -0.5), W_dec, torch.zeros(7))
    x = torch.randn(9, 7, generator=generator)
    state = State.start(Weights(*(weight.to(device, copy=True) for weight in weights)))
    made = CudaEngine(state, Objective(), UpdateRule(), sparse_below=0.5, tuning=SMALL, **options)
    return made, x.to(device)


def stepped(made, x, rates=RATES):
    """Every result and the state after these steps, on the CPU."""
    results = [part.cpu() for l1, rate in rates for part in made.step(x, l1, rate)]
    return [*results, *(tensor.cpu() for tensor in made.state.tensors().values())]


def assert_same(ours, others):
    assert all(torch.equal(a, b) for a, b in zip(ours, others, strict=True))


@needs_interpreter
def test_a_graph_has_the_bits_of_single_launches_on_any_device_and_current_one():
    with pretended(2) as gpu:
        alone = stepped(*engine("cuda:0", graphs=False))
        assert gpu.n_graphs == 0
        assert_same(stepped(*engine("cuda:1")), alone)
        assert (gpu.n_graphs, gpu.device()) == (1, 0)


@needs_interpreter
def test_where_a_graph_cannot_be_made_steps_go_on_launch_by_launch():
    with pretended() as gpu:
        alone = stepped(*engine("cuda", graphs=False), RATES[:2])
        gpu.fails_capture = True
        with pytest.warns(UserWarning, match="cannot be captured as a graph: CUDA error") as told:
            assert_same(stepped(*engine("cuda"), RATES[:2]), alone)
        assert (len(told), gpu.n_graphs) == (1, 0)


@needs_interpreter
def test_another_thread_may_allocate_while_a_graph_is_made(monkeypatch):
    """A live feed begins its next block at the very step that captures."""
    with pretended() as gpu:
        made, x = engine("cuda")
        made.step(x, *RATES[0])
        batch = made.batches[len(x), x.dtype]
        run = batch.launches.run

        def beside():
            thread = threading.Thread(target=lambda: torch.empty(3, device="cuda").add(1))
            thread.start()
            thread.join()
            run()

        monkeypatch.setattr(batch.launches, "run", beside)
        made.step(x, *RATES[1])
        assert (gpu.n_graphs, made.graphs) == (1, True)


@needs_interpreter
def test_the_interpreter_is_refused_for_tensors_on_a_device():
    with pretended(compiles=False), pytest.raises(ConfigError, match="Unset TRITON_INTERPRET"):
        engine("cuda")


@needs_interpreter
@pytest.mark.parametrize("path", ["sparse", "overflow"])
def test_the_start_up_checks_reference_has_the_kernels_numbers(path):
    with pretended():
        for step in differences(CHECKED, path):
            assert all(step[name] <= TOLERANCES[name] for name in step), step


@pytest.mark.slow
@needs_interpreter
def test_the_kernels_pass_the_start_up_check():
    with pretended() as gpu:
        wrong, found = examined(CHECKED)
        assert wrong is None, found
        assert gpu.n_graphs == 3 * len(PATHS)
