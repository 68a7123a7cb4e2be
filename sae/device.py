"""Where to compute: the name of a device, as people write it, as torch's."""

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
        raise ConfigError(f"device '{name}' asked for, but torch {torch.__version__} sees no CUDA device; use device: auto")
    return device
