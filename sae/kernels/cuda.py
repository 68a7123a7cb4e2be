"""The training step on a GPU: Triton kernels, bfloat16 products with float32 sums, float32 weights and moments.

The same gradients as `dense` on operands rounded to bfloat16. A batch whose active entries fit lists of
`sparse_below` · rows · features entries is decoded and differentiated on those entries alone; a fuller one is done by dense
products. The device decides, at each step and from that batch's own count: both paths stand in one sequence of launches, and
the kernels of the one not taken return at once. So nothing is ever dropped, the host reads nothing back, and the path depends
on the weights and the batch alone, not on what earlier steps measured: a resumed run takes the same paths and has the same
bits. (A choice from the last count that happened to have arrived would not.) The price is one product in six on dense
steps; `path="dense"` spares it for a dictionary known to be dense.

On CUDA a batch size's second step is captured as a graph and replayed from then on: a step is a copy of the rows, the graph,
and two copies of its results. Other threads may use the GPU meanwhile (a live feed makes its next block): only this one's calls
are held to what a capture permits. Where capturing fails all the same, that is told once and steps go on launch by launch.

Triton launches on the current device, so everything here runs with the state's device as that one.
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from sae.errors import ConfigError
from sae.kernels import triton_door
from sae.kernels.gradients import StepResult
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.state import State
from sae.kernels.triton_buffers import SPARSE_BELOW, Path, Sizes, Tuning, allocate, kept, of_batch
from sae.kernels.triton_step import Launches
from sae.shapes import Rows


@dataclass
class Batch:
    """What belongs to one size of batch."""

    launches: Launches
    n_runs: int = 0
    graph: "torch.cuda.CUDAGraph | None" = None

    def run(self, *, graphs: bool) -> None:
        """Launch the step; the first time as it is (kernels compile), then captured, then replayed. Raises `RuntimeError` where
        it cannot be captured; nothing was computed then."""
        self.n_runs += 1
        if not graphs or self.n_runs == 1:
            self.launches.run()
            return
        if self.graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.launches.run()
            self.graph = graph
        self.graph.replay()


Method = TypeVar("Method", bound=Callable[..., Any])


def on_own_device(method: Method) -> Method:
    """The method, run with the engine's device as the current one."""

    @wraps(method)
    def guarded(self: "CudaEngine", *args: Any, **named: Any) -> Any:
        with self.current():
            return method(self, *args, **named)

    return guarded  # type: ignore[return-value]


class CudaEngine:
    """Steps `state` on a GPU (or, for checks, in Triton's interpreter). The interface of `DenseEngine`, and two more:

    `refresh()` after the state was changed by anything but torch's own in-place operations, which it notices by itself;
    `settle()` before `state.n_updates` is relied on: until then it counts steps that were refused as not finite."""

    def __init__(
        self, state: State, objective: Objective, rule: UpdateRule, *,
        path: Path = "auto", sparse_below: float = SPARSE_BELOW, tuning: Tuning | None = None, graphs: bool = True,
    ):  # fmt: skip
        triton_door.require()
        self.state, self.objective, self.rule = state, objective, rule
        self.device = state.weights.W_enc.device
        self.graphs = graphs and self.device.type == "cuda" and not triton_door.RUNS_INTERPRETED
        self._check()
        n_features, d_mlp = state.weights.W_enc.shape
        self.sizes = Sizes(
            n_rows=1, n_features=n_features, d_mlp=d_mlp, sparse_below=sparse_below, path=path, tuning=tuning or Tuning()
        )  # fmt: skip
        with self.current():
            self.kept = allocate(kept(self.sizes), self.device)
        self.batches: dict[tuple[int, torch.dtype], Batch] = {}
        self._controls: list[float | Tensor | None] = [None, None]
        self.refresh()

    def current(self) -> AbstractContextManager[Any]:
        """Within it the engine's device is the current one."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _check(self) -> None:
        if self.device.type != "cpu" and triton_door.RUNS_INTERPRETED:
            raise ConfigError(
                f"The GPU engine was given weights on {self.device}, and Triton runs in its interpreter, on the CPU: steps would "
                "take minutes. Unset TRITON_INTERPRET, or ask for plain torch (train.engine: dense)."
            )
        if self.device.type != "cuda" and not triton_door.RUNS_INTERPRETED:
            raise ConfigError(
                f"The GPU engine was given weights on {self.device}, and Triton compiles for CUDA here. Move the state to a GPU, "
                "or set TRITON_INTERPRET=1 before the first import to check the kernels on the CPU."
            )
        for name, tensor in self.state.tensors().items():
            if tensor.dtype != torch.float32 or not tensor.is_contiguous() or tensor.device != self.device:
                raise ConfigError(
                    f"The GPU engine needs contiguous float32 tensors on {self.device}; {name} is {tensor.dtype}, "
                    f"strides {tensor.stride()}, on {tensor.device}. Make the state with State.start(weights)."
                )

    def _seen(self) -> tuple[int, ...]:
        """Changes whenever torch changes the state in place; launches of our own kernels do not change it."""
        return (self.state.n_updates, *(tensor._version for tensor in self.state.tensors().values()))

    @torch.no_grad()
    @on_own_device
    def refresh(self) -> None:
        """Take over the state as it is now: bfloat16 copies, norms, the count of updates."""
        weights = self.state.weights
        self.kept["W_enc16"].copy_(weights.W_enc)
        self.kept["W_dec16"].copy_(weights.W_dec)
        torch.linalg.vector_norm(weights.W_dec, dim=1, out=self.kept["norms"])
        self.kept["encoder_squares"].zero_()
        self.kept["encoder_squares"][0] = torch.linalg.vector_norm(weights.W_enc, dtype=torch.float64).square()
        self.kept["count"].fill_(self.state.n_updates)
        self._changes = self._seen()

    @on_own_device
    def settle(self) -> None:
        """Wait for the device and put `state.n_updates` right."""
        self.state.n_updates = int(self.kept["count"])
        self._changes = self._seen()

    def _batch(self, n_rows: int, dtype: torch.dtype) -> Batch:
        if (n_rows, dtype) not in self.batches:
            sizes = replace(self.sizes, n_rows=n_rows, dtype=dtype)
            state = {name.replace(".", "_"): tensor for name, tensor in self.state.tensors().items()}
            tensors = {**allocate(of_batch(sizes), self.device), **self.kept, **state}
            self.batches[n_rows, dtype] = Batch(Launches(sizes, self.objective, self.rule, tensors))
        return self.batches[n_rows, dtype]

    @torch.no_grad()
    @on_own_device
    def step(self, x: Rows, l1: float | Tensor, learning_rate: float) -> StepResult:
        """Gradients at λ = `l1` on the batch `x`, then one update; nothing is updated where they are not finite.

        Returns at once: the results are on the device, and reading them is what waits. So does no `l1` that lies there."""
        if self._seen() != self._changes:
            self.refresh()
        batch = self._batch(x.shape[0], x.dtype)
        tensors = batch.launches.tensors
        tensors["x"].copy_(x)
        self._control(0, l1)
        self._control(1, learning_rate)
        self._run(batch)
        self.state.n_updates += 1
        self._changes = self._seen()
        squared_error, mean_l1, norm, finite = self.kept["results"].clone()
        return StepResult(squared_error.float(), mean_l1.float(), tensors["n_fired"].clone(), norm, finite > 0)

    def _control(self, at: int, value: float | Tensor) -> None:
        """Put λ or the learning rate on the device, where it is another than before."""
        if isinstance(value, Tensor):
            self.kept["controls"][at].copy_(value)
        elif self._controls[at] is None or isinstance(self._controls[at], Tensor) or self._controls[at] != value:
            self.kept["controls"][at].fill_(value)
        self._controls[at] = value

    def _run(self, batch: Batch) -> None:
        """The step's launches; from now on one by one, where they cannot be captured."""
        try:
            batch.run(graphs=self.graphs)
        except RuntimeError as error:
            if not self.graphs or batch.graph is not None or batch.n_runs == 1:
                raise
            self.graphs = False
            told = str(error).splitlines()[0]
            warnings.warn(f"the step is launched kernel by kernel, as it cannot be captured as a graph: {told}", stacklevel=2)
            batch.launches.run()

    def active_entries(self, n_rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Active entries of the last batch of that size, int64 [1], on the device; above the capacity the step was dense."""
        return self._batch(n_rows, dtype).launches.tensors["cursor"]

    def capacity(self, n_rows: int) -> int:
        """Active entries of a batch of that size up to which a step is sparse."""
        return replace(self.sizes, n_rows=n_rows).capacity
