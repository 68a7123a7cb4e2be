"""Was the machine ours while the clock ran? CPU time that others used, and the limits above which a repeat is thrown away.

Only the Python library is imported here: the peers' interpreters run this too. The limits are those of the first measurements of
this project (a repeat starts when others used less than 0.03 CPU seconds in the last 0.15 s, and counts when they used less
than 6 % of a core while it ran). They never look at the result, so they cannot choose it.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds; /proc/stat counts in whole ticks, so a difference of two readings is known to one tick."""


def busy_seconds(stat: str) -> float:
    """CPU seconds since boot, summed over all CPUs, in which something ran, from the text of /proc/stat.

    user + nice + system + irq + softirq + steal of its first line. Steal is the time that the hypervisor gave to other guests:
    not ours either. Idle and iowait are left out; guest time is in user already (proc_stat(5)).
    """
    name, *fields = stat.partition("\n")[0].split()
    if name != "cpu" or len(fields) < 8:
        raise ValueError(f"no /proc/stat of Linux 2.6.11 or later: its first line is {stat.partition(chr(10))[0]!r}")
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) * TICK_S


def read_busy_seconds() -> float:
    return busy_seconds(Path("/proc/stat").read_text(encoding="ascii"))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When the machine counts as quiet."""

    window_s: float = 0.15
    """Seconds looked at before a repeat."""
    before_s: float = 0.03
    """CPU seconds that others may use in that window."""
    during: float = 0.06
    """Share of one core that others may use while a repeat runs, plus one tick of rounding."""
    patience_s: float = 2.0
    """Seconds waited for a quiet window before the attempt is given up."""

    def quiet_before(self, others_s: float) -> bool:
        return others_s < self.before_s

    def quiet_during(self, others_s: float, wall_s: float) -> bool:
        return others_s <= self.during * wall_s + TICK_S


def wait_until_quiet(limits: Limits) -> bool:
    """Sleep until a window was quiet; False when `patience_s` passed without one. Call it while none of the workers runs: all
    that is busy then is others' (or a worker's threads that still spin after their last step, which is waited for too)."""
    deadline = time.monotonic() + limits.patience_s
    while time.monotonic() < deadline:
        before = read_busy_seconds()
        time.sleep(limits.window_s)
        if limits.quiet_before(read_busy_seconds() - before):
            return True
    return False
