"""Rows reach W&B through a process of their own: whatever the server does and whoever is killed, the log is whole, the run
never waits, and what is missing can be sent later, no row twice. The servers are stubs on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sae.errors import LockedError
from sae.training.mirror import Tail
from sae.training.mirror_folder import MirroredRun, MirrorFolder
from sae.training.observers import JsonLog, WandbLog
from sae.training.wandb_config import WandbConfig
from tests.training.stub_wandb import Server, Staller
from tests.training.wandb_file import history

SOON, PATIENCE = 30.0, 300.0
"""Seconds, many times what an idle machine takes: a run that waits for W&B is longer held up than the first; only what hangs
takes the other."""
DENSITY = (np.array([1, 2]), np.array([0.0, 1.0, 2.0]))


@pytest.fixture
def online(monkeypatch):
    """Points wandb to a server, as a user's environment does."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return lambda url: monkeypatch.setenv("WANDB_BASE_URL", url)


def begin(folder, *, mode, timeout=PATIENCE, states=(None, None)):
    log = folder / "run.jsonl"
    rows = JsonLog(log)
    rows.start(states[0])
    config = WandbConfig(mode=mode, directory=str(folder), timeout=timeout)
    mirror = WandbLog(config, "A/1", {"l1": 4.0}, log=log)
    mirror.start(states[1])
    return rows, mirror


def record(rows, steps):
    for step in steps:
        rows.record(step, {"loss": 1.0 / step, "log10_density": DENSITY})


def wait_until(true):
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def sae_sync(folder, *options):
    """In a process of its own: wandb keeps what it once read of the environment. A mirror's children may hold its lock a little
    longer than itself."""
    command = [sys.executable, "-c", "from sae.cli.main import app; app()", "sync", str(folder / "run.jsonl"), *options]
    until = time.monotonic() + PATIENCE
    while True:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != LockedError.exit_code or time.monotonic() > until:
            return done
        time.sleep(0.2)


def in_files(folder):
    """History rows of the W&B files under `folder`, in the order of W&B's steps."""
    rows = [row for path in sorted(folder.rglob("*.wandb")) for row in history(path)]
    return sorted(rows, key=lambda row: row["_step"])


def same_as_log(rows, folder):
    """W&B's rows against the log's: line n of the log is W&B's step n."""
    logged = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    assert [row["_step"] for row in rows] == list(range(len(logged)))
    for row, line in zip(rows, logged, strict=True):
        event = line.pop("event", None)
        sent = {name: value for name, value in row.items() if not name.startswith("_")}
        for name, value in line.items():
            got = sent.pop(f"{event}/{name}" if event and name != "step" else name)
            assert got == ({"_type": "histogram", "values": value[0], "bins": value[1]} if name == "log10_density" else value)
        assert not sent


def processes(word):
    """Ids of processes with `word` in their command line, that are no zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def test_tail_waits_for_the_end_of_a_line(tmp_path):
    path = tmp_path / "run.jsonl"
    tail = Tail(path, 1)
    assert list(tail.rows()) == []
    with open(path, "a") as file:
        file.write('{"step": 1}\n{"step": 2}\n{"st')
        file.flush()
        assert list(tail.rows()) == [(1, {"step": 2})]
        file.write('ep": 3}\nnonsense\n')
    assert list(tail.rows()) == [(2, {"step": 3}), (3, None)]
    tail.close()


def test_tail_goes_on_at_the_same_line_of_a_log_that_is_replaced(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    tail = Tail(path, 0)
    assert [row["step"] for _, row in tail.rows()] == [1, 2]
    log = JsonLog(path)
    log.start(1)
    assert list(tail.rows()) == []
    log.record(2, {})
    assert list(tail.rows()) == []  # had that one, from the run that was killed
    log.record(3, {})
    assert list(tail.rows()) == [(2, {"step": 3})]
    log.close()
    tail.close()


def test_one_mirror_a_log(tmp_path):
    folder = MirrorFolder(tmp_path / "run.jsonl")
    folder.path.mkdir()
    with folder.lock(wait=False), pytest.raises(LockedError, match="being sent"), folder.lock(wait=False):
        pass
    with folder.lock(wait=False):
        pass


def test_an_offline_run_holds_every_row_of_the_log(tmp_path):
    rows, mirror = begin(tmp_path, mode="offline")
    record(rows, [10, 20])
    rows.event(20, "resampling", {"n_resampled": 4})
    rows.record(30, {"loss": float("inf"), "wide": (np.ones(600), np.ones(601)), "list": [1, 2]})
    mirror.close()
    rows.close()
    found = in_files(tmp_path)
    assert found[3]["loss"] == float("inf")
    assert len(found[3]["wide"]) == 2  # more bins than a histogram of W&B's may have
    assert found[2] == {"_step": 2, "step": 20, "resampling/n_resampled": 4} | {
        name: value for name, value in found[2].items() if name in ("_timestamp", "_runtime")
    }
    assert next(tmp_path.glob("wandb/offline-run-*")).match(Path(mirror.where).name)
    same_as_log(found[:3], _only(tmp_path, 3))


def _only(folder, n_rows):
    path = folder / "run.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:n_rows]))
    return folder


def test_killed_mirror_then_sync(tmp_path):
    """SIGKILL to the mirror in mid-run: the run and its log go on, and `sae sync` completes W&B's files."""
    rows, mirror = begin(tmp_path, mode="offline")
    record(rows, [10, 20])
    wait_until(lambda: list(tmp_path.rglob("*.wandb")))
    os.kill(mirror._process.pid, signal.SIGKILL)
    record(rows, [30, 40])
    mirror.record(40, {})
    mirror.close()
    rows.close()
    done = sae_sync(tmp_path, "--offline")
    assert "sent 4 of 4 rows" in done.stdout, done.stderr
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1, "rows may stand in two files"
    same_as_log(in_files(tmp_path), tmp_path)


def test_a_dead_mirror_is_told_and_nothing_raises(tmp_path, capsys):
    rows, mirror = begin(tmp_path, mode="offline")
    os.kill(mirror._process.pid, signal.SIGKILL)
    wait_until(lambda: mirror._process.poll() is not None)
    mirror.record(10, {})
    assert "ended with -9" in capsys.readouterr().err
    mirror.record(20, {})
    mirror.close()
    rows.close()
    assert not capsys.readouterr().err, "told twice"


def test_a_mirror_that_cannot_be_started_is_told_and_nothing_raises(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    rows, mirror = begin(tmp_path, mode="offline")
    record(rows, [10])
    mirror.record(10, {})
    mirror.close()
    rows.close()
    assert "cannot be started" in capsys.readouterr().err


RUN = """
import sys, time
from pathlib import Path
from tests.training.test_mirror import begin, record
rows, mirror = begin(Path(sys.argv[1]), mode="offline")
print("begun", flush=True)
record(rows, [10, 20, 30])
time.sleep(60)
"""


def test_a_killed_run_is_sent_to_its_end_and_leaves_no_process(tmp_path):
    run = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], stdout=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline() == b"begun\n"
    wait_until(lambda: len((tmp_path / "run.jsonl").read_text().splitlines()) == 3)
    (mirror,) = processes(str(tmp_path / "run.jsonl"))
    run.kill()
    run.communicate()
    wait_until(lambda: not processes(str(tmp_path / "run.jsonl")))
    wait_until(lambda: not processes(f"--pid\0{mirror}\0"))  # wandb-core, which it starts
    same_as_log(in_files(tmp_path), tmp_path)


def test_a_resumed_run_goes_on_in_the_same_wandb_run(tmp_path, online):
    server = Server()
    online(server.url)
    rows, mirror = begin(tmp_path, mode="online")
    record(rows, [10, 20, 30])
    mirror.close()
    rows.close()
    assert server.exit_code == 0
    rows, again = begin(tmp_path, mode="online", states=(2, mirror.state()))
    record(rows, [30, 40])
    again.close()
    rows.close()
    server.die()
    assert again.where == mirror.where
    same_as_log(server.rows, tmp_path)


@pytest.mark.parametrize("kind", ["refuses", pytest.param("stalls", marks=pytest.mark.slow)])
def test_a_server_out_of_reach_costs_the_run_nothing(tmp_path, online, capsys, kind):
    staller = Staller()
    online(staller.url)
    if kind == "refuses":
        staller.close()
    start = time.monotonic()
    rows, mirror = begin(tmp_path, mode="online", timeout=1.0)
    assert time.monotonic() - start < SOON
    record(rows, [10])
    wait_until(MirrorFolder(tmp_path / "run.jsonl").read_trouble)
    mirror.record(10, {})
    mirror.record(20, {})
    told = capsys.readouterr().err
    assert told.count("sae sync") == 1, "told once, while the run goes on"
    start = time.monotonic()
    mirror.close()
    assert time.monotonic() - start < SOON
    rows.close()
    wait_until(lambda: not processes(str(tmp_path / "run.jsonl")))
    assert not list(tmp_path.glob("wandb/run-*/*.wandb")), "empty runs are left to be synced"
    server = Server()
    online(server.url)
    done = sae_sync(tmp_path)
    assert "sent 1 of 1 rows" in done.stdout, done.stderr
    done = sae_sync(tmp_path)
    assert "sent 0 of 1 rows" in done.stdout, done.stderr
    server.die()
    staller.close()
    same_as_log(server.rows, tmp_path)


def test_sync_without_a_server_says_so(tmp_path, online):
    rows, mirror = begin(tmp_path, mode="offline", timeout=1.0)
    mirror.close()
    rows.close()
    wait_until(lambda: not processes(str(tmp_path / "run.jsonl")))
    online("http://127.0.0.1:9")
    done = sae_sync(tmp_path)
    assert done.returncode == 69, done.stderr
    assert "cannot be reached" in done.stderr


def test_sync_of_a_log_that_was_never_mirrored(tmp_path):
    log = JsonLog(tmp_path / "run.jsonl")
    log.start(None)
    log.close()
    done = sae_sync(tmp_path)
    assert done.returncode == 65
    assert "is no log of a run" in done.stderr


def test_a_server_that_dies_in_mid_run(tmp_path, online, capsys):
    server = Server()
    online(server.url)
    rows, mirror = begin(tmp_path, mode="online", timeout=1.0)
    record(rows, [10, 20])
    assert server.started.wait(300)
    server.die()
    record(rows, [30, 40])
    start = time.monotonic()
    mirror.close()
    assert time.monotonic() - start < SOON
    rows.close()
    assert "sae sync" in capsys.readouterr().err
    for process in processes(str(tmp_path / "run.jsonl")):
        os.kill(process, signal.SIGKILL)  # rather than wait a minute for it to give up
    wait_until(lambda: not processes(str(tmp_path / "run.jsonl")))
    after = Server()
    n_there, after.history = len(server.history), server.history
    online(after.url)
    done = sae_sync(tmp_path)
    assert f"sent {4 - n_there} of 4 rows" in done.stdout, done.stderr
    after.die()
    same_as_log(after.rows, tmp_path)


def test_lines_that_are_no_rows_are_not_counted(tmp_path):
    """A torn line in the middle, a word, a bare number: W&B's steps stay the log's lines, and the counts are of rows."""
    run = {"id": "0a1b2c3d", "name": "A/1", "params": {}, "project": "sae", "entity": None, "directory": str(tmp_path)}
    MirrorFolder(tmp_path / "run.jsonl").write_run(MirroredRun(**run, mode="offline", timeout=20.0))
    (tmp_path / "run.jsonl").write_text('{"step": 10}\n{"step": 2\nnonsense\n7\n{"step": 30}\n{"step": 4')
    done = sae_sync(tmp_path, "--offline")
    assert "sent 2 of 2 rows" in done.stdout, done.stderr
    assert [(row["_step"], row["step"]) for row in in_files(tmp_path)] == [(0, 10), (4, 30)]
