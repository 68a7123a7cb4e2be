"""`make gpu-check`: all of it on a pretended device, by an engine that stands for the kernels; what is wrong is told, and so is
that there is no GPU."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_check, gpu_step
from sae.kernels import choice
from sae.kernels import gpu_check as start_up
from tests.support.pretended_device import pretended
from tests.support.rounded_engine import RoundedEngine

SMALL = gpu_check.Settings(
    shape=(12, 40, 30, 4),
    rounds=1,
    steps=2,
    examined=(30, 200),
    n_rows=120,
    n_features=24,
    batch_size=40,
    n_steps=6,
    context_length=8,
    n_vocab=50,
    live_rows=120,
)


@pytest.fixture
def engine(monkeypatch):
    """The class that is taken for the kernels."""
    kind = type("Spoilt", (RoundedEngine,), {})
    for module in (choice, start_up, gpu_step):
        monkeypatch.setattr(module, "CudaEngine", kind)
    monkeypatch.setattr(choice, "triton_door", SimpleNamespace(AVAILABLE=True, RUNS_INTERPRETED=False))
    monkeypatch.setattr(choice, "trouble", lambda asked: None)
    monkeypatch.setattr(gpu_check, "verdict", start_up.examined)
    with pretended(2):
        yield kind


def table(capsys):
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "|---|---|"
    return dict(line.strip("| ").split(" | ") for line in lines[2:])


@pytest.mark.slow
def test_a_card_on_which_all_is_right(engine, capsys):
    assert gpu_check.main([], SMALL) == 0
    told = table(capsys)
    assert told["card"].startswith("pretended, compute capability 9.0")
    checks = [told[f"check, {name}"] for name in gpu_check.RECIPES]
    assert all("right, same bits with a graph and without" in each for each in checks)
    assert all(f"{path}: " in each for each in checks for path in start_up.PATHS)
    assert [told[name] for name in ("stopped and resumed", "live rows, twice", "cuda:1")] == ["same bits"] * 3
    assert "times eager bf16" in told["ms a step"]


def test_a_card_on_which_something_is_wrong(engine, capsys, monkeypatch):
    """A count that is wrong; steps whose bits are others each time; a driver that gives up in one of the checks."""

    def spoil(path, result, state):
        state.weights.b_dec[0] += 1e-4 * torch.rand(())
        return result._replace(n_fired=result.n_fired + 1)

    def dies(*given):
        raise RuntimeError("CUDA error: an illegal memory access\nmore")

    engine.spoil = staticmethod(spoil)
    monkeypatch.setattr(gpu_step, "problem", dies)
    monkeypatch.setattr(gpu_check, "CHECKS", (gpu_check.start_up, gpu_check.resumed, gpu_check.speed))
    assert gpu_check.main(["--device", "cuda:1"], SMALL) == 1
    told = table(capsys)
    assert all(told[f"check, {name}"].startswith("WRONG: on the sparse path n_fired differs") for name in gpu_check.RECIPES)
    assert told["stopped and resumed"] == "OTHER BITS"
    assert told["speed"] == "FAILED: RuntimeError: CUDA error: an illegal memory access"


def test_a_card_that_the_kernels_do_not_run_on(capsys):
    with pretended(capability=(7, 5)):
        lines = list(gpu_check.card(torch.device("cuda"), SMALL))
        assert not list(gpu_check.start_up(torch.device("cuda"), SMALL))
    assert lines[-1].found.startswith("not used: ")


def test_without_a_gpu_that_is_told_in_one_line(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu_check.main([]) == 78
    assert capsys.readouterr().err.startswith("gpu-check: a GPU is needed: device 'cuda' asked for, but ")
    assert gpu_check.main(["--device", "cpu"]) == 78
