"""The controller of λ: on a plant whose answer is known, within a tenth of the target, held afterwards, and never forgotten."""

import math

import pytest

from sae.training.fit import fit
from sae.training.sparsity import SparsityController, missed_target
from tests.support.toy_training import toy_config, toy_rows, toy_trainer


def run_plant(controller, n_steps, *, start_l0, elasticity, lag):
    """log L0 follows a − k log λ with a first-order lag of so many steps; returns (L0, factor) of every step."""
    log_l0, path = math.log(start_l0), []
    for step in range(n_steps):
        wanted = math.log(start_l0) - elasticity * controller.log_factor
        log_l0 += (wanted - log_l0) / lag
        controller.observe(step, math.exp(log_l0))
        path.append((math.exp(log_l0), controller.factor))
    return path


@pytest.mark.parametrize("elasticity", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("lag", [5, 20, 50])
@pytest.mark.parametrize("start_l0", [8.0, 20.0, 60.0])
def test_ends_on_the_target(elasticity, lag, start_l0):
    """From a recipe's λ that is three times too weak, right, or too strong."""
    controller = SparsityController(target_l0=20.0, start=50, end=1400)
    path = run_plant(controller, 2000, start_l0=start_l0, elasticity=elasticity, lag=lag)
    assert path[-1][0] == pytest.approx(20.0, rel=0.1)


def test_moves_between_start_and_end_only():
    controller = SparsityController(target_l0=20.0, start=50, end=1400)
    path = run_plant(controller, 2000, start_l0=60.0, elasticity=1.0, lag=20)
    factors = [factor for _, factor in path]
    assert set(factors[:50]) == {1.0}
    assert factors[50] != 1.0
    assert len(set(factors[50:1400])) > 1000
    assert set(factors[1400:]) == {factors[1399]}


def test_rises_where_too_many_are_active_and_falls_where_too_few():
    for start_l0, sign in ((60.0, 1), (8.0, -1)):
        controller = SparsityController(target_l0=20.0, start=0, end=1000)
        run_plant(controller, 20, start_l0=start_l0, elasticity=0.0, lag=1)
        assert controller.log_factor * sign > 0


def test_nothing_active_is_no_error():
    controller = SparsityController(target_l0=20.0, start=0, end=100)
    for step in range(100):
        controller.observe(step, 0.0)
    assert 0 < controller.factor < 1


def test_its_state_is_in_the_checkpoint():
    """A trainer restored from another's tensors and numbers goes on with its factor and its mean."""
    config = toy_config(target_l0=3.0)
    trainer, feed = toy_trainer(config)
    for _ in range(20):
        trainer.step(feed.next())
    other, _ = toy_trainer(config)
    other.restore(trainer.tensors(), trainer.numbers())
    assert other.controller == trainer.controller
    assert other.controller.log_factor != 0
    assert other.l1_at(20) == trainer.l1_at(20) == trainer.l1 * trainer.controller.factor


def test_is_held_for_the_rest_of_the_run_and_told():
    trained = fit(toy_rows(), [toy_config(target_l0=3.0, control_until=0.5, n_steps=100, log_every=1)])[0]
    told = [row["lambda"] for row in trained.history if "event" not in row]
    assert len(set(told[51:])) == 1 < len(set(told[:50]))
    assert trained.dictionary.run.facts["lambda"] == told[-1]


def test_waits_for_the_ramp_of_lambda():
    trainer, _ = toy_trainer(toy_config(recipe="april2024", target_l0=3.0, n_steps=200))
    assert (trainer.controller.start, trainer.controller.end) == (10, 160)


def test_a_real_dictionary_ends_near_its_target():
    """Toy rows have no structure to be sparse about; on them it is right within a fifth."""
    trained = fit(toy_rows(), [toy_config(target_l0=3.0, n_steps=300, log_every=300, batch_size=100, resample_at=())])[0]
    assert trained.history[-1]["l0"] == pytest.approx(3.0, rel=0.2)


def test_a_target_that_is_missed_is_told_and_recorded(capsys):
    """On stderr, by name, with both numbers and what to do, and in the run's record; what is near enough is not."""
    missed, hit = toy_config(target_l0=1.0), toy_config(target_l0=3.0, n_steps=300, batch_size=40)
    trained = fit(toy_rows(), [missed, hit], names=["A/sweep/few", "A/sweep/more"])
    l0, near = (one.history[-1]["l0"] for one in trained)
    assert l0 > 1.15
    assert near == pytest.approx(3.0, rel=0.15)
    told = capsys.readouterr().err
    assert f"A/sweep/few: target_l0 = 1 was missed: L0 ended at {l0:.3g}, λ at " in told
    assert "train for more steps" in told
    assert "a larger λ as l1" in told
    assert "A/sweep/more" not in told
    facts = [one.dictionary.run.facts for one in trained]
    assert facts[0]["target_l0_missed"] in told
    assert "target_l0_missed" not in facts[1]


@pytest.mark.parametrize(
    ("l0", "missed", "advice"), [(23.1, True, "larger"), (22.9, False, ""), (17.1, False, ""), (16.9, True, "smaller")]
)
def test_missed_is_more_than_fifteen_percent_off(l0, missed, advice):
    told = missed_target(20.0, l0, 3.0)
    assert bool(told) == missed
    assert advice in told
