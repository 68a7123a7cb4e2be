"""The check before a training on a GPU: an engine that is wrong in any one thing is found out, a right one passes, and whatever
happens to the check's process is told and not raised."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest
import torch

from sae.kernels import choice, gpu_check
from sae.kernels.dense import DenseEngine
from sae.kernels.gpu_check import PATHS, Asked, examined, trouble, verdict
from sae.kernels.gradients import Weights
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.rounded import rounded_step
from sae.kernels.state import State
from tests.kernels.triton_reference import forward_and_back, problem
from tests.support.pretended_device import pretended
from tests.support.rounded_engine import RoundedEngine

ASKED = Asked(device="cpu", d_mlp=12, objective=Objective(), rule=UpdateRule(), n_rows=30, n_features=40, sparse_below=0.1)
APRIL = Objective(tied_bias=False, weighted_l1=True), UpdateRule(unit_norm=False, max_gradient_norm=1.0)


@pytest.fixture
def engine(monkeypatch):
    """The class of the engine that is checked."""
    kind = type("Spoilt", (RoundedEngine,), {})
    monkeypatch.setattr(gpu_check, "CudaEngine", kind)
    return kind


@pytest.mark.parametrize(("objective", "rule"), [(Objective(), UpdateRule()), APRIL])
def test_a_right_engine_passes(engine, objective, rule):
    wrong, found = examined(dataclasses.replace(ASKED, objective=objective, rule=rule))
    assert wrong is None
    assert found.keys() == PATHS.keys()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("n_fired", lambda value: torch.zeros_like(value)),
        ("squared_error", lambda value: 7 * value),
        ("l1", lambda value: 1.01 * value),
        ("gradient_norm", lambda value: value * float("nan")),
        ("finite", lambda value: ~value),
    ],
)
def test_a_wrong_field_of_one_path_is_found(engine, path, field, change):
    engine.spoil = staticmethod(
        lambda at, result, state: result._replace(**{field: change(getattr(result, field))}) if at == path else result
    )
    wrong, _ = examined(ASKED)
    assert wrong is not None
    assert f"on the {path} path" in wrong
    assert field in wrong


@pytest.mark.parametrize("name", ["W_enc", "b_dec", "first.W_dec", "second.b_enc"])
def test_one_wrong_row_of_the_state_is_found(engine, name):
    def spoil(path, result, state):
        state.tensors()[name][0] *= 1.5
        return result

    engine.spoil = staticmethod(spoil)
    wrong, _ = examined(ASKED)
    assert wrong is not None
    assert ("moments" if "." in name else "moves") in wrong


def test_other_bits_and_a_nan_that_passes_are_found(engine):
    def drift(path, result, state):
        state.weights.b_dec[0] *= 1 + 1e-7 * torch.randint(2, 9, ()).item()
        return result

    engine.spoil = staticmethod(drift)
    assert "gave other bits" in examined(ASKED)[0]

    def swallow(path, result, state):
        if not result.finite:
            state.weights.b_enc[0] += 1
        return result

    engine.spoil = staticmethod(swallow)
    assert "with NaN was not refused" in examined(ASKED)[0]


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("objective", [Objective(), APRIL[0]])
def test_the_reference_is_the_tests_own(dense, objective):
    weights, x = problem()
    ours, theirs = (
        rounded_step(weights, x, 0.7, objective, dense=dense),
        forward_and_back(weights, x, 0.7, objective, dense=dense),
    )
    for a, b in zip(ours.step.gradients, theirs["gradients"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert torch.equal(ours.step.n_fired, theirs["n_fired"])
    assert float(ours.step.l1) == pytest.approx(float(theirs["l1"]), rel=1e-12)
    assert bool((ours.fewest <= ours.step.n_fired).all() & (ours.step.n_fired <= ours.most).all())


def test_what_is_asked_reaches_the_process_as_it_is():
    asked = dataclasses.replace(ASKED, objective=APRIL[0], rule=APRIL[1])
    assert Asked.from_json(json.dumps(dataclasses.asdict(asked))) == asked


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("print('compiling'); print('[null, {}]')", None),
        ("print('[\"n_fired differs\", {}]')", "n_fired differs"),
        ("import os; os.abort()", "it ended with -6"),
        ("raise RuntimeError('CUDA error: an illegal memory access')", "illegal memory access"),
        ("import time; time.sleep(60)", "not done after 0.3 s"),
    ],
)
def test_whatever_becomes_of_the_process_is_told(monkeypatch, script, told):
    monkeypatch.setattr(gpu_check, "COMMAND", [sys.executable, "-S", "-c", script])
    monkeypatch.setattr(gpu_check, "SECONDS", 0.3 if "sleep" in script else 60)
    verdict.cache_clear()
    said = trouble(ASKED)
    verdict.cache_clear()
    assert said is None if told is None else told in said


def state():
    return State.start(Weights(*(part.to("cuda") for part in problem()[0])))


@pytest.mark.parametrize(
    ("capability", "what", "told"),
    [
        ((7, 5), {}, "pretended has compute capability 7.5"),
        ((9, 0), {"hip": "6.4"}, "built for ROCm"),
        ((9, 0), {"AVAILABLE": False}, "Triton is not installed"),
        ((9, 0), {"RUNS_INTERPRETED": True}, "TRITON_INTERPRET"),
        ((9, 0), {"trouble": "n_fired differs"}, "n_fired differs"),
    ],
)
def test_what_the_kernels_cannot_run_on_takes_plain_torch_and_says_why(monkeypatch, capability, what, told):
    with pretended(capability=capability):
        door = {"AVAILABLE": True, "RUNS_INTERPRETED": False, **what}
        monkeypatch.setattr(choice, "triton_door", SimpleNamespace(**door))
        monkeypatch.setattr(torch.version, "hip", what.get("hip"))
        monkeypatch.setattr(choice, "trouble", lambda asked: what.get("trouble"))
        with pytest.warns(UserWarning, match=told):
            assert isinstance(choice.make_engine(state(), Objective(), UpdateRule()), DenseEngine)
