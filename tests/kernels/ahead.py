"""Every kernel of the GPU engine, compiled for cards that are not here.

    TRITON_INTERPRET=0 python -m tests.kernels.ahead 80 120

By Triton's own compiler and the assembler that it brings, to machine code, at production's tile sizes and A/1's shape. Buffers
are fake tensors, so the sizes are the real ones. A process of its own, as the interpreter is asked for before triton is first
imported. The last line is a list of `Compiled`, as JSON.
"""

import json
import re
import sys
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sae.kernels.gradients import Weights
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.state import State
from sae.kernels.triton_buffers import Sizes, allocate, kept, of_batch
from sae.kernels.triton_step import Launches

RECIPES = [
    (Objective(), UpdateRule()),
    (Objective(tied_bias=False, weighted_l1=True), UpdateRule(unit_norm=False, max_gradient_norm=1.0)),
]
A1 = (8192, 4096, 512)
"""Rows, features and d_mlp."""
PRODUCTS = ("wgmma.mma_async", "tcgen05.mma", "mma.sync")
NAMES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.int32: "i32", torch.int64: "i64"}


class Compiled(NamedTuple):
    """One kernel, as it was compiled."""

    kernel: str
    architecture: int
    """90 for sm_90."""
    shared: int
    """Bytes of shared memory that a block needs."""
    products: str
    """The instruction that it multiplies with on the tensor cores; empty where it does not."""
    atomics: int


class Compiler(Launches):
    """Compiles where a step would launch."""

    def __init__(self, architecture: int, *given: Any):
        super().__init__(*given)
        self.architecture = architecture
        self.seen: dict[tuple[str, str, str], Compiled] = {}

    def launch(self, kernel: Any, grid: tuple[int, ...], options: dict[str, int], **others: Any) -> None:
        names = self.names | others
        signature: dict[str, str] = {}
        constants: dict[tuple[int, ...], Any] = {}
        attributes: dict[tuple[int, ...], Any] = {}
        for at, parameter in enumerate(kernel.params):
            value = names[parameter.name]
            signature[parameter.name] = _kind(parameter, value)
            if parameter.is_constexpr:
                constants[(at,)] = value
            elif isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
                attributes[(at,)] = [["tt.divisibility", 16]]
        key = kernel.__name__, str(signature), str(constants)
        if key not in self.seen:
            self.seen[key] = compiled(kernel, signature, constants, attributes, options, self.architecture)


def _kind(parameter: Any, value: Any) -> str:
    if parameter.is_constexpr:
        return "constexpr"
    if isinstance(value, torch.Tensor):
        return "*" + NAMES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def compiled(
    kernel: Any, signature: Any, constants: Any, attributes: Any, options: dict[str, int], architecture: int
) -> Compiled:
    """`kernel` as machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(kernel, signature, constants, attributes)
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    ptx = made.asm["ptx"]
    return Compiled(
        kernel.__name__,
        architecture,
        made.metadata.shared,
        next((name for name in PRODUCTS if name in ptx), ""),
        len(re.findall(r"\b(?:atom|red)[.]", ptx)),
    )


def everything(architecture: int, recipes: int = 1) -> list[Compiled]:
    """All kernels of a step, for the first of the `RECIPES` or more of them."""
    n_rows, n_features, d_mlp = A1
    found: list[Compiled] = []
    with FakeTensorMode():
        for objective, rule in RECIPES[:recipes]:
            step = Sizes(n_rows=n_rows, n_features=n_features, d_mlp=d_mlp)
            shapes = (n_features, d_mlp), (n_features,), (n_features, d_mlp), (d_mlp,)
            state = State.start(Weights(*(torch.empty(shape) for shape in shapes)))
            named = {name.replace(".", "_"): tensor for name, tensor in state.tensors().items()}
            buffers = allocate(of_batch(step) | kept(step), torch.device("cpu"))
            compiler = Compiler(architecture, step, objective, rule, buffers | named)
            compiler.run()
            found += compiler.seen.values()
    return found


if __name__ == "__main__":
    # What differs between recipes are a few lines, the same on every card.
    made = [one for name in sys.argv[1:] for one in everything(int(name), recipes=2 if name == "90" else 1)]
    print(json.dumps([one._asdict() for one in made]))
