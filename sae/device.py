"""Where to compute: the name of a device, as people write it, as torch's; and what torch does there unasked."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sae.errors import ConfigError


def to_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises `ConfigError` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device '{name}' is none that torch knows; use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}' is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device '{name}' asked for, but {_why_not()}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = ", ".join(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count()))
        raise ConfigError(f"device '{name}' asked for, but there is none of that number; there are {there}")
    return device


def _why_not() -> str:
    """Why torch has no CUDA device, and what to do."""
    version = torch.__version__.partition("+")[0]
    if torch.version.cuda is not None:
        return f"torch {torch.__version__} sees no CUDA device: see what nvidia-smi says, or use device: auto"
    if torch.version.hip is not None:
        return f"torch {torch.__version__} is a build for AMD's ROCm, which is not supported; use device: cpu"
    if sys.platform == "darwin":
        return "there is no CUDA on macOS; use device: cpu"
    index = " --index-url https://download.pytorch.org/whl/cu130" if sys.platform == "win32" else ""
    return (
        f"torch {torch.__version__} is a build for the CPU alone; install the one for "
        f'CUDA with: pip install --force-reinstall "torch=={version}"{index}; or use device: cpu'
    )


@contextmanager
def unfilled() -> Iterator[None]:
    """New memory keeps what was in it, also where the caller asked torch for determinism, under which each tensor is first filled
    with NaN (0.8 ms for a batch of 8,192 rows). Everything is written here before it is read."""
    switches: Any = torch.utils.deterministic
    before = switches.fill_uninitialized_memory
    switches.fill_uninitialized_memory = False
    try:
        yield
    finally:
        switches.fill_uninitialized_memory = before
