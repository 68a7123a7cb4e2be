"""A process that has all stages imported, and begins each life of one by a fork, in milliseconds.

It reads a line of JSON for each life, and answers with one. It is fresh and has one thread, so that no fork inherits a lock that
another thread holds.
"""

import atexit
import ctypes
import faulthandler
import importlib
import json
import os
import runpy
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

SECONDS = 600
"""After which a life shows where it hangs, and ends."""


def main() -> None:
    shim = ctypes.CDLL(sys.argv[1])
    sys.path[:] = [path for path in sys.path if path not in ("", ".")]  # nothing is imported from where a stage stands
    if sys.argv[2]:
        importlib.import_module(sys.argv[2])
    for name in sys.argv[3:]:
        importlib.import_module(f"pipelines.{name}")
    warm_up()
    warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        n_threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
        assert n_threads == 1, f"{n_threads} threads: a fork may hang"
        child = os.fork()
        if child == 0:
            live(order, shim)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"code": code}), flush=True)


def warm_up() -> None:
    """What takes long and starts no thread."""
    import numba  # noqa: F401
    import torch
    from matplotlib.font_manager import fontManager  # reads a cache, or makes it

    from sae.provenance import Run

    assert fontManager is not None
    torch.use_deterministic_algorithms(True, warn_only=True)  # imports torch's compiler, a second or two
    Run.from_json(Run(kind="x", code="x").to_json())


def live(order: dict[str, Any], shim: ctypes.CDLL) -> None:
    """One life of a stage, to the end of this process."""
    null = os.open(os.devnull, os.O_RDWR)
    errors = os.open(order["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, file in ((0, null), (1, null), (2, errors)):
        os.dup2(file, number)
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    os.chdir(order["folder"])
    sys.argv[:] = [order["stage"], *order["words"]]
    if order["arm"] is not None:
        at, error, stays, reads = order["arm"]
        shim.fault_arm(os.fsencode(order["folder"]), at, error, stays, reads)
    code = 0
    try:
        runpy.run_module(f"pipelines.{order['stage']}", run_name="__main__")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    if order["arm"] is not None:
        shim.fault_last.restype = ctypes.c_char_p
        told = {"n_calls": shim.fault_count(), "last": os.fsdecode(shim.fault_last())}
        shim.fault_arm(b"/nowhere", -1, 0, 0, 0)
        Path(order["told"]).write_text(json.dumps(told))
    atexit._run_exitfuncs()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
