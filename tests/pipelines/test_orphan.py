"""A stage does not outlive the DVC that started it, from its first line on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pipelines.orphan import INIT, Ancestor, find
from tests.import_graph import ROOT

PATIENCE = 120

STAGE = "import pipelines, pathlib, time; pathlib.Path('watched').touch(); time.sleep(600)"
"""Stands for a stage that imports something heavy."""
LATE = """
import os, pathlib, time
pathlib.Path('begun').touch()
while os.getppid() == {parent}: time.sleep(0.01)
import pipelines
pathlib.Path('watched').touch()
"""
"""A stage whose DVC is killed before it gets so far."""
DVC = """
import os, subprocess, sys
os.environ.update(DVC_STAGE="train", DVC_ROOT=os.getcwd())
child = subprocess.Popen(sys.argv[1:])
print(child.pid, flush=True)
child.wait()
"""


def start(folder, *command):
    """A process that runs `command` as DVC would, and has begun it."""
    (folder / "dvc").write_text(DVC)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    dvc = subprocess.Popen(
        [sys.executable, "dvc", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert int(dvc.stdout.readline()) > 0
    return dvc


def wait_until(is_so, what):
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def kill(dvc):
    dvc.send_signal(signal.SIGKILL)
    dvc.wait()


def ended(dvc):
    """All that held its stdout are gone; what they said."""
    try:
        return dvc.communicate(timeout=PATIENCE)[1]
    except subprocess.TimeoutExpired:
        os.killpg(dvc.pid, signal.SIGKILL)
        raise


@pytest.mark.parametrize("lock", ["names it", "is not there"])
@pytest.mark.parametrize("shell", ["is replaced", "stays between"])
def test_it_ends_when_dvc_is_killed(tmp_path, shell, lock):
    command = [sys.executable, "-c", STAGE]
    if shell == "stays between":
        command = ["sh", "-c", f'{sys.executable} -c "{STAGE}"; true']
    dvc = start(tmp_path, *command)
    if lock == "names it":
        write_lock(tmp_path, dvc.pid)
    wait_until((tmp_path / "watched").exists, "the stage has not begun")
    kill(dvc)
    ended(dvc)


def write_lock(folder, pid):
    (folder / ".dvc/tmp").mkdir(parents=True)
    lock = {"write": {"data/A/1/dictionary": {"pid": pid, "cmd": "dvc repro"}}, "read": {}}
    (folder / ".dvc/tmp/rwlock").write_text(json.dumps(lock))


@pytest.mark.parametrize("lock", ["names it", "names the next", "is not there"])
def test_it_does_not_begin_when_dvc_is_gone_already(tmp_path, lock):
    """Whoever takes orphans over, where it is not the first process of all, may be taken for a program with DVC in it; DVC's lock
    tells then."""
    program = "import os, sys; sys.argv = ['-c']; " + "exec(open('late').read().format(parent=os.getppid()))"
    (tmp_path / "late").write_text(LATE)
    dvc = start(tmp_path, sys.executable, "-c", program)
    if lock != "is not there":
        write_lock(tmp_path, {"names it": dvc.pid, "names the next": os.getpid()}[lock])
    wait_until((tmp_path / "begun").exists, "it has not begun")
    kill(dvc)
    said = ended(dvc)
    if lock == "is not there" and (tmp_path / "watched").exists():
        pytest.skip("orphans go to another process than the first here")
    assert "train: the DVC that started this is gone; run again" in said
    assert not (tmp_path / "watched").exists()


def test_outside_of_dvc_nothing_is_watched(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"} | {"PYTHONPATH": str(ROOT)}
    program = "import pipelines, sys, threading; assert threading.active_count() == 1; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=PATIENCE)


def above(*commands):
    """Ancestors with these commands, the nearest first; pids 100, 101, ..."""
    return [Ancestor(100 + i, 99 + i, tuple(command.split())) for i, command in enumerate(commands)]


@pytest.mark.parametrize(
    ("commands", "holders", "pid"),
    [
        (["python -m dvc repro", "bash"], set(), 100),
        (["/bin/sh -c python", "/env/bin/dvc repro", "make"], set(), 101),
        (["sh -c --set=../dvc-params.yaml", "/env/bin/dvc repro"], set(), 101),
        (["sh -c x", "python run_it_all.py", "bash"], {101}, 101),
        (["sh -c x", "python run_it_all.py", "bash"], set(), 101),
        (["sh -c x", "python run_it_all.py", "bash"], {7}, None),
        (["python -m dvc exp exec-run", "python -m celery"], {7}, 100),
        (["sh -c x"], set(), None),
        ([], set(), None),
    ],
)
def test_which_of_the_ancestors_is_dvc(commands, holders, pid):
    found = find(above(*commands), holders)
    assert (found and found.pid) == pid


def test_the_first_process_of_all_may_be_dvc_or_who_takes_orphans():
    assert find([Ancestor(INIT, 7, ("/sbin/init",))], set()) is None
    assert find([Ancestor(INIT, 7, ("python", "/usr/bin/dvc", "repro"))], set()) is not None
