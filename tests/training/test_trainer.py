"""The trainer against whole runs in float64 numpy, and what it refuses and records."""

import numpy as np
import pytest
import torch

from sae.errors import ConfigError, NumericsError
from sae.training.config import input_scale
from sae.training.observers import History
from tests.support import numpy_training
from tests.support.toy_training import DEAD, drive, in_float64, toy_config, toy_rows, toy_trainer

MONOSEMANTICITY = {"tied": True, "weighted": False, "unit_norm": True}
APRIL = {"tied": False, "weighted": True, "unit_norm": False, "max_gradient_norm": 1.0}
RUNS = {
    "monosemanticity": (dict(DEAD), MONOSEMANTICITY),
    "monosemanticity, renormalised before": ({**DEAD, "renormalise": "before"}, {**MONOSEMANTICITY, "renormalise": "before"}),
    "april2024": ({"recipe": "april2024"}, APRIL),
}


def monosemanticity_schedule(step, n_steps, config):
    """λ and learning rate stay."""
    return config.l1, config.learning_rate


def april_schedule(step, n_steps, config):
    """λ from 0 to 5 over the first 5 %, the learning rate to 0 over the last 20 %."""
    return 5 * min(1, (step + 1) / (0.05 * n_steps)), config.learning_rate * min(1, (n_steps - step) / (0.2 * n_steps))


def run_both(trainer, feed, reference, schedule, n_steps):
    """Takes the same steps twice; returns how many features were resampled."""
    config, n_resampled = trainer.config, 0
    for step in range(n_steps):
        if trainer.resamples_now():
            drawn = trainer.draw(feed.others)
            assert trainer._dead().nonzero()[:, 0].tolist() == reference.dead().tolist()
            if drawn is not None:
                reference.resample(drawn)
                n_resampled += len(drawn)
            trainer.resample(drawn)
        x = feed.next()
        reference.step(np.asarray(x.double()) * trainer.scale, *schedule(step, config.n_steps, config))
        trainer.step(x)
    return n_resampled


@pytest.mark.parametrize("name", RUNS)
def test_whole_run_in_float64_equals_numpy(name):
    """Sixty steps from the first to the last, with all that a recipe does on the way."""
    changes, rules = RUNS[name]
    trainer, feed = toy_trainer(toy_config(**changes), scale=0.75)
    trainer = in_float64(trainer)
    reference = numpy_training.Run(trainer.state.weights, window=6, **rules)
    schedule = april_schedule if name == "april2024" else monosemanticity_schedule
    n_resampled = run_both(trainer, feed, reference, schedule, 60)
    assert (n_resampled > 0) == (name != "april2024")
    for ours, theirs in zip(trainer.state.weights, reference.p, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", RUNS)
def test_first_steps_of_the_fast_engine_equal_numpy(name):
    """The engine that trains, in float32: as close as its rounding leaves it (Adam's first steps magnify it)."""
    changes, rules = RUNS[name]
    trainer, feed = toy_trainer(toy_config(**changes))
    reference = numpy_training.Run(trainer.state.weights, window=6, **rules)
    schedule = april_schedule if name == "april2024" else monosemanticity_schedule
    run_both(trainer, feed, reference, schedule, 10)
    for ours, theirs in zip(trainer.state.weights, reference.p, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-4)


@pytest.mark.parametrize(("tied", "weighted"), [(True, False), (False, True)])
def test_numpy_gradients_equal_finite_differences(tied, weighted):
    rng = np.random.default_rng(0)
    p, x, h = [rng.normal(size=shape) for shape in ((5, 4), (5,), (5, 4), (4,))], rng.normal(size=(3, 4)), 1e-6

    def loss():
        return np.mean([numpy_training.row_loss(p, row, 0.7, tied=tied, weighted=weighted) for row in x])

    for part, gradient in zip(p, numpy_training.gradients(p, x, 0.7, tied=tied, weighted=weighted), strict=True):
        for index in np.ndindex(part.shape):
            part[index] += h
            above = loss()
            part[index] -= 2 * h
            below = loss()
            part[index] += h
            assert gradient[index] == pytest.approx((above - below) / (2 * h), abs=1e-5)


def test_same_seed_same_bits_and_another_seed_others():
    a, b, c = (drive(*toy_trainer(toy_config(seed=seed))).dictionary() for seed in (0, 0, 1))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.W_enc, c.W_enc)


def test_input_scale():
    x = toy_rows(1000) * 7
    scale = input_scale(float(x.square().sum(1).mean()), 8)
    assert float((scale * x).square().sum(1).mean()) == pytest.approx(8, rel=1e-5)
    for nothing in (0.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="mean square norm"):
            input_scale(nothing, 8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("recipe", ["monosemanticity", "april2024"])
@pytest.mark.parametrize("sparse", [False, True])
def test_nonfinite_input_stops_before_the_update(value, recipe, sparse):
    trainer, feed = toy_trainer(toy_config(recipe=recipe, resample_at=()))
    drive(trainer, feed, 5)
    if sparse:
        trainer.engine.density = 0.01
    before = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    numbers, x = trainer.numbers(), feed.next()
    x[3, 2] = value
    with pytest.raises(NumericsError, match="at step 5; 1 of its 40 rows hold NaN or infinity"):
        trainer.step(x)
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.tensors().items())
    assert trainer.numbers() == numbers


def test_a_gradient_that_overflows_stops_before_the_update():
    trainer, feed = toy_trainer(toy_config())
    drive(trainer, feed, 2)
    before = trainer.state.weights.W_enc.clone()
    with pytest.raises(NumericsError, match="at step 2; training diverged: lower learning_rate"):
        trainer.step(feed.next() * 1e20)
    assert torch.equal(trainer.state.weights.W_enc, before)


def test_weights_that_diverged_in_the_last_step_are_not_handed_out():
    trainer = drive(*toy_trainer(toy_config(n_steps=1)))
    trainer.state.weights.b_enc[3] = float("inf")
    with pytest.raises(NumericsError, match="nothing is saved"):
        trainer.dictionary()


def test_records_say_what_happened():
    history = History()
    drive(*toy_trainer(toy_config(n_steps=12, log_every=5, resample_at=(0.5,)), observers=[history]))
    records = [row for row in history.rows if "event" not in row]
    assert [row["step"] for row in records] == [5, 10, 12]
    for row in records:
        assert row["loss"] == pytest.approx(row["squared_error"] + row["lambda"] * row["l1"], rel=1e-5)
        assert 0 <= row["l0"] <= 24
    assert [row["step"] for row in history.rows if "event" in row] == [6]


def test_history_is_the_same_in_every_run():
    """What depends on the clock stays out of it."""
    histories = []
    for _ in range(2):
        histories.append(History())
        drive(*toy_trainer(toy_config(n_steps=10, log_every=2), observers=[histories[-1]]))
    assert histories[0].rows == histories[1].rows


def test_firings_of_each_density_window():
    """Counted here from the weights before each step."""
    trainer, feed = toy_trainer(toy_config(n_steps=20, density_window=0.25, resample_at=()))
    fired = torch.zeros(4, 24, dtype=torch.int64)
    for step in range(20):
        x = feed.next()
        W_enc, b_enc, _, b_dec = trainer.state.weights
        fired[step // 5] += ((x.double() - b_dec.double()) @ W_enc.double().T + b_enc.double() > 0).sum(0)
        trainer.step(x)
    assert trainer.history_rows == [200] * 4
    assert torch.equal(torch.stack(trainer.history), fired)


def test_more_features_than_sense():
    with pytest.raises(ConfigError, match="n_features"):
        toy_trainer(toy_config(n_features=8 * 1024 + 1))


def test_seeds_that_share_their_lower_bits_are_other_seeds():
    """2**32 apart they are one to torch's CPU generator."""
    starts = [toy_trainer(toy_config(seed=seed))[0] for seed in (1, 1 + 2**32, 1 + 2**62)]
    for name in ("W_enc", "b_enc", "W_dec"):
        assert len({getattr(trainer.state.weights, name).numpy().tobytes() for trainer in starts}) == 3
    for recipe in ("monosemanticity", "april2024"):
        runs = [drive(*toy_trainer(toy_config(recipe=recipe, seed=seed, n_steps=3))) for seed in (1, 1 + 2**32)]
        assert not torch.equal(runs[0].state.weights.W_dec, runs[1].state.weights.W_dec)


def test_draws_of_resampling_follow_the_whole_seed():
    def draws(seed):
        trainer, feed = toy_trainer(toy_config(**DEAD))
        drive(trainer, feed, 17)
        trainer.config = toy_config(**DEAD, seed=seed)
        trainer.window.n_fired[:] = 0
        return trainer.draw(feed.others)

    assert torch.equal(draws(1), draws(1))
    assert not torch.equal(draws(1), draws(1 + 2**32))
