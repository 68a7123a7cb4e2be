"""Which engine computes a device's training steps."""

import warnings
from typing import Literal, Protocol, runtime_checkable

import torch

from sae.kernels import choice_of_screen, triton_door
from sae.kernels.cpu import CpuEngine
from sae.kernels.cuda import CudaEngine
from sae.kernels.dense import DenseEngine
from sae.kernels.gradients import StepResult, Weights
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.state import State
from sae.shapes import Rows

EngineName = Literal["auto", "dense"]
CHECK_FEATURES, CHECK_ROWS = 256, 512
CHECK_TOLERANCE = 0.05
"""Relative difference of Adam's first moments after one step, bfloat16's products against float32's: about 0.005."""


@runtime_checkable
class Engine(Protocol):
    """Computes gradients and applies them, in place on its `state`."""

    state: State

    def step(self, x: Rows, l1: float, learning_rate: float) -> StepResult:
        """One step on the batch `x` at λ = `l1`; updates nothing where loss or gradients are not finite."""
        ...

    def refresh(self) -> None:
        """To be called after `state` was changed from outside."""
        ...

    def settle(self) -> None:
        """To be called before `state` is read: waits for the device, and puts `state.n_updates` right."""
        ...


def make_engine(
    state: State, objective: Objective, rule: UpdateRule, name: EngineName = "auto", *, n_steps: int | None = None
) -> Engine:
    """The engine for the device that `state` lies on. `dense` is plain torch on any device, the reference for the others.
    A run of few `n_steps` (None: not known, many) holds no trials of screens.

    The Triton engine first takes one step beside it, on a small problem; where it fails or disagrees, that is told as a warning
    and the dense engine is taken."""
    if name == "dense":
        return DenseEngine(state, objective, rule)
    if state.weights.W_enc.device.type == "cpu":
        return CpuEngine(state, objective, rule, by_clock=n_steps is None or n_steps >= choice_of_screen.WORTH_FROM)
    trouble = check_cuda_engine(state.weights.W_enc.device, state.weights.W_enc.shape[1], objective, rule)
    if trouble is None:
        return CudaEngine(state, objective, rule)
    warnings.warn(f"the Triton engine is not used on this GPU ({trouble}); steps are plain torch, and slower", stacklevel=2)
    return DenseEngine(state, objective, rule)


def check_cuda_engine(device: torch.device, d_mlp: int, objective: Objective, rule: UpdateRule) -> str | None:
    """What is wrong with the Triton engine on `device`, from three steps of a small problem (the first as it is, then captured,
    then replayed) beside the dense engine; None where they agree."""
    if not triton_door.AVAILABLE:
        return "Triton is not installed"
    engines: list[CudaEngine | DenseEngine] = []
    try:
        for kind in (CudaEngine, DenseEngine):
            chance = torch.Generator().manual_seed(0)
            W_dec = torch.nn.functional.normalize(torch.randn(CHECK_FEATURES, d_mlp, generator=chance), dim=1)
            parts = (W_dec.clone(), torch.full((CHECK_FEATURES,), -1.0), W_dec, torch.zeros(d_mlp))
            engines.append(kind(State.start(Weights(*(part.to(device) for part in parts))), objective, rule))
            for _ in range(3):
                engines[-1].step(torch.randn(CHECK_ROWS, d_mlp, generator=chance).to(device), 0.1, 1e-3)
            engines[-1].settle()
        for ours, reference in zip(engines[0].state.first, engines[1].state.first, strict=True):
            difference = float((ours - reference).norm() / reference.norm().clamp_min(1e-30))
            if not difference < CHECK_TOLERANCE:
                return f"its gradients differ from the dense engine's by {difference:.2g} of their norm"
    except Exception as error:  # whatever a compiler or driver raises: plain torch still works
        return f"{type(error).__name__}: {error}"
    return None
