"""Under `dvc repro`: end when DVC is killed, which would leave this process running beside the next attempt.

`import pipelines` starts it, so `python -m pipelines.<stage>` is watched before anything heavy is imported; nothing here is.

DVC runs a stage through a shell. One that replaces itself by the stage makes DVC the parent, whose death Linux tells
(PR_SET_PDEATHSIG); one that stays between does not die with DVC. So who is the parent of the process below DVC is looked at too,
again and again: it becomes another when DVC is gone.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

SHELLS = ("sh", "dash", "bash", "zsh", "ash", "ksh", "fish")
INIT = 1
"""The process that orphans become children of, unless some other has asked for them."""
SECONDS = 0.1
"""Between two looks; ten times that where each starts a process."""


class Ancestor(NamedTuple):
    """A process above this one."""

    pid: int
    below: int
    """The process between this one and it that is its child."""
    words: tuple[str, ...]
    """Of its command."""


def watch() -> None:
    """Where DVC runs this process, end it with SIGTERM when DVC is gone; at once, if it is already."""
    if "DVC_STAGE" not in os.environ:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    dvc = find(ancestors(), lock_holders())
    if dvc is None:
        print(f"{os.environ['DVC_STAGE']}: the DVC that started this is gone; run again", file=sys.stderr)
        sys.exit(143)
    if sys.platform == "linux" and dvc.below == os.getpid():
        return  # it lived after the kernel was asked to tell
    threading.Thread(target=_wait, args=(dvc,), daemon=True).start()


def find(above: list[Ancestor], holders: set[int]) -> Ancestor | None:
    """DVC among the ancestors, nearest first; None where it is none of them. `holders` are those that DVC's own lock names."""
    for each in above:
        if each.pid in holders:
            return each
    programs = [each for each in above if not _is_shell(each)]
    for each in programs:
        if any(word.rpartition("/")[2].startswith("dvc") for word in each.words):
            return each
    if holders or not programs or programs[0].pid == INIT:
        return None
    return programs[0]  # DVC within another program, which keeps no lock here


def ancestors() -> list[Ancestor]:
    """From the parent up."""
    found: list[Ancestor] = []
    below = os.getpid()
    while len(found) < 64:
        pid = _parent(below)
        if not pid:
            break
        found.append(Ancestor(pid, below, _words(pid)))
        below = pid
    return found


def lock_holders() -> set[int]:
    """The processes that DVC's lock says to be making something in this project."""
    lock = Path(os.environ.get("DVC_ROOT", ".")) / ".dvc" / "tmp" / "rwlock"
    try:
        return {int(holder["pid"]) for holder in json.loads(lock.read_text())["write"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _wait(dvc: Ancestor) -> None:
    own = dvc.below == os.getpid()
    while (os.getppid() if own else _parent(dvc.below)) == dvc.pid:
        time.sleep(SECONDS if own or sys.platform == "linux" else 10 * SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_shell(ancestor: Ancestor) -> bool:
    return bool(ancestor.words) and ancestor.words[0].rpartition("/")[2].lstrip("-") in SHELLS


def _parent(pid: int) -> int:
    """0 where there is none, or `pid` is no more."""
    if pid == os.getpid():
        return os.getppid()
    if sys.platform != "linux":
        return int(_ps("ppid", pid) or 0)
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _words(pid: int) -> tuple[str, ...]:
    if sys.platform != "linux":
        return tuple(_ps("command", pid).split())
    try:
        return tuple(Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0"))
    except OSError:
        return ()


def _ps(column: str, pid: int) -> str:
    """What `ps` says of a process, on a system without /proc."""
    done = subprocess.run(["ps", "-o", f"{column}=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()
