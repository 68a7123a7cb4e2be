"""Resident memory of this process by the kernel's count, and its peak from a moment on."""

import ctypes
import gc
from pathlib import Path


def status_kilobytes(field: str) -> int:
    """A field of /proc/self/status in kB: VmRSS (resident now), VmHWM (its peak). `ru_maxrss` would do for the peak, but
    remembers the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def forget_peak(*, trim: bool = False) -> int:
    """From here on VmHWM is the peak of what follows; what is resident now, kB. With `trim` what was freed is given back first:
    else it is taken again unseen, and a peak above it may be none."""
    if trim:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return status_kilobytes("VmRSS")
