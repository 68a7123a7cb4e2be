"""The one door to Triton, which writes the GPU kernels and is optional where torch has no CUDA.

torch's CUDA build brings the Triton it was built for (torch 2.13.0: triton 3.7.1, also named in the extra `triton`). With a
torch that knows no GPU at all (no CUDA, no ROCm) the kernels run under Triton's interpreter, on the CPU and in numpy: slow, and
only good for checking what they compute. The interpreter must be asked for before triton is first imported, because triton's
own library decides then; set TRITON_INTERPRET=0 to have compilable kernels without a CUDA torch (as the compile test does).

Two faults of the interpreter (3.7.1) are worked round where `INTERPRETED` is read: a product of bfloat16 tiles multiplies
their bit patterns as integers, and rounding to bfloat16 truncates.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import torch

from sae.errors import UnavailableError

if torch.version.cuda is None and torch.version.hip is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    triton = tl = None

AVAILABLE = triton is not None
RUNS_INTERPRETED = bool(AVAILABLE and triton.knobs.runtime.interpret)
INTERPRETED: Any = tl.constexpr(RUNS_INTERPRETED) if AVAILABLE else RUNS_INTERPRETED
"""The same as a constant that a kernel can branch on."""


def jit(function: Callable[..., None]) -> Any:
    """`triton.jit`, or the function as it is where there is no Triton, so that its module can be imported.

    Type checkers that wrap functions (under pytest) are taken off first: Triton compiles the source text."""
    return triton.jit(inspect.unwrap(function)) if AVAILABLE else function


def require() -> None:
    """Raise an error that says what to install, where Triton is not importable."""
    if not AVAILABLE:
        raise UnavailableError(
            "The GPU engine was asked for and Triton is not installed. torch's CUDA build brings it; "
            "without CUDA, `pip install triton==3.7.1` runs the kernels in its interpreter, for checks only."
        )
