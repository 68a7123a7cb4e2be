"""The parts of the benchmarks that decide which figures are shown: the quiet filter, the turns, the medians, the table."""

import sys

import pytest

from benchmarks.harness import Repeat, Summary, Worker, WorkerError, interleave, machine, summarise, table, timed
from benchmarks.quiet import TICK_S, Limits, busy_seconds, wait_until_quiet

# Recorded on this project's machine, 100 ticks a second: user nice system idle iowait irq softirq steal guest guest_nice.
STAT = """cpu  28018 8582 6121 173591 566 0 87 24 0 0
cpu0 8381 2127 1333 96424 113 0 11 8 0 0
cpu1 19636 6455 4788 77167 452 0 75 16 0 0
intr 2233445 0 9
"""


def repeat(wall_ms: float, *, quiet: bool = True, steps: int = 1) -> Repeat:
    return Repeat(steps=steps, wall_s=wall_ms * steps / 1e3, cpu_s=2 * wall_ms * steps / 1e3, others_s=0.0, quiet=quiet)


def test_busy_seconds_of_a_recorded_stat():
    ticks = 28018 + 8582 + 6121 + 87 + 24  # by hand: all but idle, iowait and the guests
    assert busy_seconds(STAT) == pytest.approx(ticks * TICK_S)


def test_idle_and_iowait_are_not_busy_and_steal_is():
    assert busy_seconds(STAT.replace("173591 566", "999999 999")) == busy_seconds(STAT)
    assert busy_seconds(STAT.replace(" 24 0 0\n", " 34 0 0\n", 1)) == pytest.approx(busy_seconds(STAT) + 10 * TICK_S)


def test_a_foreign_stat_is_refused():
    with pytest.raises(ValueError, match="intr 5"):
        busy_seconds("intr 5 4 3\n")


def test_limits_at_their_edges():
    limits = Limits()
    assert limits.quiet_before(0.0299)
    assert not limits.quiet_before(0.03)
    assert limits.quiet_during(0.06 * 0.5 + TICK_S, wall_s=0.5)
    assert not limits.quiet_during(0.06 * 0.5 + 2.5 * TICK_S, wall_s=0.5)


def test_waiting_for_quiet_gives_up(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr("benchmarks.quiet.read_busy_seconds", lambda: float(next(clock)))  # a second of others' work at each look
    limits = Limits(window_s=0.001, patience_s=0.02)
    assert not wait_until_quiet(limits)
    monkeypatch.setattr("benchmarks.quiet.read_busy_seconds", lambda: 7.0)
    assert wait_until_quiet(limits)


def test_repeats_are_taken_in_turn_until_each_has_its_quiet_ones():
    order: list[str] = []

    def contestant(name: str, loud: set[int]):
        def measure() -> Repeat:
            order.append(name)
            return repeat(1.0, quiet=order.count(name) not in loud)

        return measure

    taken = interleave({"a": contestant("a", set()), "b": contestant("b", {1, 2})}, rounds=2, attempts=3)
    assert "".join(order) == "ababbb"
    assert [each.quiet for each in taken["b"]] == [False, False, True, True]


def test_a_machine_never_quiet_ends_and_is_marked():
    taken = interleave({"a": lambda: repeat(5.0, quiet=False)}, rounds=2, attempts=3)
    assert len(taken["a"]) == 6
    assert summarise(taken["a"], lambda each: each.wall_s, 2) == Summary(5.0, 5.0, 5.0, 6, 6, False)


def test_summary_is_of_the_quiet_repeats_in_milliseconds_a_step():
    repeats = [repeat(value, steps=3) for value in (10, 50, 20, 40, 30)] + [repeat(1000, quiet=False)]
    assert summarise(repeats, lambda each: each.wall_s, 5) == pytest.approx((30, 20, 40, 5, 6, True))  # numpy.percentile's too
    assert summarise(repeats, lambda each: each.cpu_s, 5).median == pytest.approx(60)
    loud = summarise(repeats, lambda each: each.wall_s, 6)
    assert (loud.n_kept, loud.quiet) == (6, False)
    assert loud.median == pytest.approx(35)
    assert summarise([repeat(4)], lambda each: each.wall_s, 1)[:3] == (4, 4, 4)


def test_table_is_markdown_and_aligned():
    assert table(["", "ms"], [["plain", "651.0"], ["ours", "31.0"]]).splitlines() == [
        "|       |    ms |",
        "| ----- | ----: |",
        "| plain | 651.0 |",
        "| ours  |  31.0 |",
    ]


ECHO = """
import json, os, sys
replies = os.fdopen(os.dup(1), "w"); os.dup2(2, 1)
for line in sys.stdin:
    command = json.loads(line)
    print("a contestant prints")
    if command["do"] == "die":
        sys.exit("it broke")
    print(json.dumps({"steps": command["steps"], "wall_s": 0.5, "cpu_s": 0.5, "others_s": 0.2}), file=replies, flush=True)
"""


def test_worker_answers_and_its_death_is_told():
    worker = Worker("echo", [sys.executable, "-c", ECHO], threads=1)
    assert timed(worker, 3, None) == Repeat(steps=3, wall_s=0.5, cpu_s=0.5, others_s=0.2, quiet=True)
    quick = {"window_s": 0.001, "patience_s": 0.005}
    assert timed(worker, 3, Limits(before_s=9, during=0.5, **quick)).quiet
    assert not timed(worker, 3, Limits(before_s=9, **quick)).quiet  # others used 0.2 s of 0.5 s
    assert not timed(worker, 3, Limits(before_s=0, during=0.5, **quick)).quiet  # no window is quieter than 0
    with pytest.raises(WorkerError, match=r"(?s)echo ended after .*it broke"):
        worker.ask({"do": "die"})
    worker.close()


def test_a_silent_worker_is_given_up():
    worker = Worker("silent", [sys.executable, "-c", "import time; time.sleep(60)"], threads=1)
    with pytest.raises(WorkerError, match=r"silent did not answer within 0.2 s"):
        worker.ask({"do": "run"}, timeout_s=0.2)


def test_machine_names_its_processor():
    found = machine()
    assert found["processor"]
    assert found["cpus"] >= 1
    assert found["memory_gb"] > 0.1
