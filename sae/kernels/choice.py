"""Which engine computes a device's training steps."""

from typing import Protocol, runtime_checkable

from sae.kernels.cpu import CpuEngine
from sae.kernels.dense import DenseEngine
from sae.kernels.gradients import StepResult
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.state import State
from sae.shapes import Rows


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


def make_engine(state: State, objective: Objective, rule: UpdateRule) -> Engine:
    """The engine for the device that `state` lies on."""
    if state.weights.W_enc.device.type == "cpu":
        return CpuEngine(state, objective, rule)
    return DenseEngine(state, objective, rule)
