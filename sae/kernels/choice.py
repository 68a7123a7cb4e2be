"""Which engine computes a device's training steps, and whether the device has room for them."""

import warnings
from collections.abc import Iterable
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from sae.errors import ConfigError
from sae.kernels import choice_of_screen, triton_door
from sae.kernels.cpu import CpuEngine
from sae.kernels.cuda import CudaEngine
from sae.kernels.dense import DenseEngine
from sae.kernels.gpu_check import Asked, trouble
from sae.kernels.gradients import StepResult
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.state import State
from sae.kernels.triton_buffers import MOST_D_MLP, bytes_needed
from sae.shapes import Rows

EngineName = Literal["auto", "dense"]
LEAST_CAPABILITY = (8, 0)
"""The first with products of bfloat16."""


@runtime_checkable
class Engine(Protocol):
    """Computes gradients and applies them, in place on its `state`."""

    state: State

    def step(self, x: Rows, l1: float | Tensor, learning_rate: float) -> StepResult:
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

    On a GPU the Triton engine is first checked beside a reference, in a process of its own (`gpu_check`); where it cannot run,
    fails or disagrees, that is told as a warning and the dense engine is taken."""
    if name == "dense":
        return DenseEngine(state, objective, rule)
    device, d_mlp = state.weights.W_enc.device, state.weights.W_enc.shape[1]
    if device.type == "cpu":
        return CpuEngine(state, objective, rule, by_clock=n_steps is None or n_steps >= choice_of_screen.WORTH_FROM)
    reason = unfit(device, d_mlp) or trouble(Asked(device=str(device), d_mlp=d_mlp, objective=objective, rule=rule))
    if reason is None:
        return CudaEngine(state, objective, rule)
    warnings.warn(f"the Triton engine is not used on this GPU ({reason}); steps are plain torch, and slower", stacklevel=2)
    return DenseEngine(state, objective, rule)


def unfit(device: torch.device, d_mlp: int) -> str | None:
    """Why the Triton engine is not even tried on a GPU; None where it is."""
    if torch.version.hip is not None:
        return "torch is built for ROCm, for which the kernels were never compiled"
    if not triton_door.AVAILABLE:
        return "Triton is not installed"
    if triton_door.RUNS_INTERPRETED:
        return "TRITON_INTERPRET asks for Triton's interpreter, which is for checks on a CPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        name, (major, minor) = torch.cuda.get_device_name(device), capability
        return f"{name} has compute capability {major}.{minor}, and products of bfloat16 need 8.0 or more"
    if d_mlp > MOST_D_MLP:
        return f"d_mlp is {d_mlp}, and its kernels hold rows of at most {MOST_D_MLP}"
    return None


def bytes_to_train(n_rows: int, n_features: int, d_mlp: int, device: torch.device, name: EngineName) -> int:
    """Bytes that a dictionary's training takes on a GPU, or a little more: weights, moments and what the engine allocates."""
    of_state = 24 * n_features * d_mlp
    if name == "auto" and unfit(device, d_mlp) is None:
        return of_state + bytes_needed(n_rows, n_features, d_mlp)
    entries = 13 * n_rows * n_features  # f, d and a temporary in float32, and which are active
    return of_state + entries + 12 * n_features * d_mlp + 12 * n_rows * d_mlp


def refuse_what_has_no_room(wanted: Iterable[tuple[int, EngineName]], n_rows: int, d_mlp: int, device: torch.device) -> None:
    """Raises `ConfigError` where dictionaries of so many features each (and with that engine) have no room on a GPU together, for
    steps of `n_rows` rows. Nothing is asked of a CPU, whose memory the system deals out."""
    if device.type == "cpu":
        return
    needed = sum(bytes_to_train(n_rows, n_features, d_mlp, device, name) for n_features, name in wanted)
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if needed > free:
        raise ConfigError(
            f"training needs {needed / 1e9:.2f} GB on {device}, and {free / 1e9:.2f} of its {total / 1e9:.2f} GB are free: lower "
            "batch_size or n_features, train fewer dictionaries together, or end what else uses that GPU"
        )
