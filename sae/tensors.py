"""Tensors to a safetensors file, with a full disk told as what it is."""

import errno
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write `tensors`, moved to the CPU. Raises `OSError` (ENOSPC) where the file cannot be written: safetensors tells that as
    an error of its own, which is no `OSError`."""
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(errno.ENOSPC, f"cannot write {path.name}: {error}") from error
