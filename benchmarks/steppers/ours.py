"""This project's step."""

from torch import Tensor

from sae.kernels.choice import make_engine
from sae.kernels.gradients import StepResult, Weights
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.state import State


class Ours:
    """The objective and rule of the 2023 paper, which are the defaults."""

    def __init__(self, weights: dict[str, Tensor], *, l1: float, learning_rate: float, batch_size: int):
        copies = Weights(*(weights[name].clone() for name in Weights._fields))
        self.state = State.start(copies)
        self.engine = make_engine(self.state, Objective(), UpdateRule())
        self.l1, self.learning_rate = l1, learning_rate

    def step(self, x: Tensor) -> StepResult:
        return self.engine.step(x, self.l1, self.learning_rate)

    def weights(self) -> Weights:
        return self.state.weights

    def measure(self, x: Tensor) -> tuple[float, float]:
        """What the engine itself says of a step on `x`, so that the check is of the code that was timed."""
        result = self.step(x)
        return float(result.n_fired.sum()) / len(x), float(result.squared_error)
