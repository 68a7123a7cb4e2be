"""Factors along a run, at steps worked by hand."""

import pytest

from sae.training.schedule import Schedule


def schedule(**changes):
    defaults = {"n_steps": 100, "warmup": 0.0, "decay": 0.0, "l1_warmup": 0.0, "resample_at": (), "resample_window": 0.0}
    return Schedule(**{**defaults, "rewarm": 0.0, **changes})


def test_learning_rate_over_the_run():
    plain = schedule()
    assert {plain.learning_rate(step) for step in range(100)} == {1.0}
    ramps = schedule(warmup=0.1, decay=0.2)
    assert ramps.learning_rate(0) == pytest.approx(0.1)
    assert ramps.learning_rate(9) == ramps.learning_rate(80) == 1.0
    assert ramps.learning_rate(90) == pytest.approx(0.5)
    assert ramps.learning_rate(99) == pytest.approx(0.05)
    rewarmed = schedule(resample_at=(0.5,), rewarm=0.1)
    assert rewarmed.learning_rate(49) == 1.0
    assert rewarmed.learning_rate(50) == pytest.approx(0.19)
    assert rewarmed.learning_rate(59) == 1.0


def test_lambda_over_the_run():
    assert schedule().l1(0) == 1.0
    assert schedule(l1_warmup=0.1).l1(4) == pytest.approx(0.5)
    assert schedule(l1_warmup=0.1).l1(50) == 1.0


def test_counters_start_a_window_before_each_resampling():
    counted = schedule(resample_at=(0.2, 0.5), resample_window=0.1)
    assert [step for step in range(100) if counted.counters_start(step)] == [10, 40]
    early = schedule(resample_at=(0.05,), resample_window=0.1)
    assert [step for step in range(100) if early.counters_start(step)] == [0]


def test_a_run_of_few_steps_resamples_no_step_before_the_first():
    assert schedule(n_steps=3, resample_at=(0.025, 0.9)).resample_steps == (1, 3)
