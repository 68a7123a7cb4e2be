"""Tensors to a safetensors file, with what the system says told as what it is."""

import errno
import os
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write `tensors`, moved to the CPU. Raises `OSError` where the file cannot be written: safetensors tells that as an error of
    its own, which is no `OSError`, with the system's number in its text."""
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
