"""What this machine's processor can do: the one place that asks.

Three parties must agree before an instruction is written: the processor has it (LLVM asks it), torch sees it too where torch has
a word for it, and numba's code generator accepts it. That last is set by `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES`: told of a
lesser processor, it ends the process at an instruction that this one does not have. Where one of them says no, the slower path
is taken.
"""

import os
import platform
from functools import cache

import torch
from llvmlite import binding
from numba.core.registry import cpu_target

_TORCH_SAYS = {
    "avx2": "avx2",
    "avx512f": "avx512_f",
    "avx512bw": "avx512_bw",
    "avx512vl": "avx512_vl",
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
}
"""torch's names of LLVM's features, where it has one."""


@cache
def can(feature: str) -> bool:
    """Whether compiled code may use `feature`, named as LLVM does: "avx2", "f16c", "avx512vnni", "avxvnni", "dotprod" (ARM)."""
    torch_says = torch.cpu.get_capabilities().get(_TORCH_SAYS.get(feature, ""), True)
    return bool(torch_says) and bool(binding.get_host_cpu_features().get(feature)) and feature in _accepted()


def converts_float16() -> bool:
    """Whether float16 becomes float32 by an instruction. LLVM calls a function for it elsewhere, which is not there."""
    return platform.machine() in ("aarch64", "arm64") or can("f16c")


def multiplies_bfloat16() -> bool:
    """Whether torch's products of bfloat16 have instructions of their own: a question to torch alone."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def describe() -> str:
    """The machine in one line, for whoever reads a red run: model, and what torch and numba make of it, and threads."""
    wide = [name for name in ("avx2", "f16c", "avx512f", "avx512vnni", "avxvnni", "avx512bf16", "dotprod") if can(name)]
    _, target, _ = cpu_target.target_context.codegen().magic_tuple()
    return (
        f"{_model()}; torch {torch.backends.cpu.get_cpu_capability()}; numba {target or binding.get_host_cpu_name()} "
        f"({' '.join(wide) or 'no wide instructions'}); {torch.get_num_threads()} threads of {os.cpu_count()}"
    )


def _accepted() -> frozenset[str]:
    """The features that numba's code generator was given. `generic` is given none."""
    given = cpu_target.target_context.codegen().magic_tuple()[2]
    return frozenset(feature[1:] for feature in given.split(",") if feature.startswith("+"))


def _model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # macOS, ARM
        return platform.processor() or platform.machine()
