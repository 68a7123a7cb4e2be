"""A folder takes another's place: the two change places in one step, so that at no moment either is missing.

Where the system or the file system cannot do that, two renames are needed, and between them what was there lies `aside`."""

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux's renameat2."""
RENAME_SWAP = 2
"""Of macOS's renamex_np."""
CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What a system or a file system says that has no such call."""


def take_place(folder: Path, target: Path) -> Path | None:
    """Let `folder` be `target`; returns where what stood there lies now, None where nothing did. Raises `OSError`, and then all
    is as it was."""
    if not target.exists():
        os.replace(folder, target)
        return None
    if exchange(folder, target):
        return folder
    old = aside(target)
    os.replace(target, old)
    try:
        os.replace(folder, target)
    except BaseException:
        os.replace(old, target)
        raise
    return old


def aside(target: Path) -> Path:
    """Where what stood in the place of a new folder lies for a moment, where two renames are needed."""
    return target.with_name(target.name + ".old.partial")


def exchange(one: Path, other: Path) -> bool:
    """Let two folders that are there change places, or say that it cannot be done here (False). Raises `OSError`."""
    call = _call()
    if call is None:
        return False
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    number = ctypes.get_errno()
    if number in CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@cache
def _call() -> Callable[[bytes, bytes], int] | None:
    """The system's own, 0 where it did it; None where there is none."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "linux":
            renameat2 = library.renameat2
            return lambda one, other: int(renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE))
        if sys.platform == "darwin":
            renamex_np = library.renamex_np
            return lambda one, other: int(renamex_np(one, other, RENAME_SWAP))
    except (OSError, AttributeError):  # an older C library
        pass
    return None
