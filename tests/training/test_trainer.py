"""The trainer against a numpy run of the same recipe, and on inputs where the answer is known."""

import itertools

import numpy as np
import pytest
import torch

from sae.errors import ConfigError, NumericsError
from sae.kernels.gradients import Weights
from sae.training.initial import geometric_median, initial_weights
from sae.training.observers import History
from sae.training.optimizer import ConstrainedAdam, remove_parallel
from sae.training.schedule import Schedule
from sae.training.trainer import TrainConfig, Trainer, input_scale
from tests.support import numpy_reference
from tests.support.problems import problem


def config(**changes):
    return TrainConfig(
        **{
            "n_features": 24,
            "batch_size": 40,
            "n_steps": 12,
            "learning_rate": 1e-2,
            "log_every": 4,
            "resample_inputs": 80,
            **changes,
        }
    )


def normal_batches(d_mlp=8, n_rows=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(n_rows, d_mlp, generator=generator) + 0.5


def test_whole_run_equals_numpy():
    """Eight steps of the recipe in float64: gradient, its parallel part removed, Adam, unit norm."""
    _, x = problem()
    run = config(n_steps=8, resample_at=())
    trainer = Trainer(run, itertools.repeat(x))
    p = [np.asarray(w.double()).copy() for w in trainer.weights]
    dictionary = trainer.train()
    adam = numpy_reference.Adam(p, run.betas)
    for _ in range(8):
        grads = numpy_reference.gradients(*p, np.asarray(x.double()), run.l1)
        grads[2] -= (grads[2] * p[2]).sum(1, keepdims=True) * p[2]
        adam.step(p, grads, run.learning_rate)
        p[2] /= np.linalg.norm(p[2], axis=1, keepdims=True)
    for ours, reference in zip((dictionary.W_enc, dictionary.b_enc, dictionary.W_dec, dictionary.b_dec), p, strict=True):
        np.testing.assert_allclose(ours.numpy(), reference, atol=2e-4)


def test_dictionary_vectors_stay_unit_norm():
    dictionary = Trainer(config(n_steps=30), normal_batches()).train()
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(24))


def test_parallel_component_is_removed():
    weights, _ = problem()
    gradient = torch.randn_like(weights.W_dec)
    expected = gradient - (gradient * weights.W_dec).sum(1, keepdim=True) * weights.W_dec
    remove_parallel(gradient, weights.W_dec)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close((gradient * weights.W_dec).sum(1), torch.zeros(24), atol=1e-6, rtol=0)


def test_adam_sees_the_projected_gradient():
    """A gradient along the dictionary vectors moves neither them nor Adam's moments."""
    weights, _ = problem()
    optimizer = ConstrainedAdam(weights, (0.9, 0.999))
    before = weights.W_dec.clone()
    zeros = Weights(*(torch.zeros_like(w) for w in weights))
    optimizer.step(zeros._replace(W_dec=weights.W_dec * 3), 0.1)
    assert float(optimizer.adam.state[optimizer.parameters[2]]["exp_avg"].abs().max()) < 1e-6
    torch.testing.assert_close(weights.W_dec, before, atol=0.11, rtol=0)


def test_same_seed_same_bits_and_another_seed_others():
    a, b, c = (Trainer(config(seed=seed), normal_batches()).train() for seed in (0, 0, 1))
    assert torch.equal(a.W_enc, b.W_enc)
    assert not torch.equal(a.W_enc, c.W_enc)


def test_geometric_median_of_a_heavy_cluster_is_that_cluster():
    """More than half the points in one place: the geometric median is that place, wherever the others are."""
    points = torch.cat([torch.ones(6, 3), torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 100])
    torch.testing.assert_close(geometric_median(points), torch.ones(3), atol=1e-3, rtol=0)


def test_geometric_median_has_no_net_pull():
    """At the minimum of Σ‖x − m‖ the unit vectors to all points sum to nothing. The mean and the median of
    each coordinate fail this."""
    points = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)).exp().double()
    median = geometric_median(points, tolerance=1e-12, iterations=1000)

    def pull(m):
        return float(torch.nn.functional.normalize(points - m, dim=1).mean(0).norm())

    assert pull(median) < 1e-6
    assert pull(points.mean(0)) > 1e-2
    assert pull(points.median(0).values) > 1e-3


def test_initialisation():
    """Kaiming-uniform bounds, unit-norm dictionary vectors, b_dec at the given centre, encoder and decoder untied."""
    centre = torch.arange(64.0)
    weights = initial_weights(5000, centre, torch.Generator().manual_seed(0))
    assert torch.equal(weights.b_dec, centre)
    assert float(weights.W_enc.abs().max()) <= 1 / 8
    assert float(weights.W_enc.abs().max()) > 0.99 / 8
    torch.testing.assert_close(weights.W_dec.norm(dim=1), torch.ones(5000))
    cosine = torch.nn.functional.cosine_similarity(weights.W_enc, weights.W_dec)
    assert float(cosine.abs().mean()) < 0.15


def test_scale_is_folded_back():
    """Training on 10 x gives the dictionary whose features are 10 f, to the bit that float rounding allows."""

    def scaled(factor):
        for x in normal_batches():
            yield x * factor

    plain = Trainer(config(), scaled(1.0), scale=1.0).train()
    large = Trainer(config(), scaled(10.0), scale=0.1).train()
    x = next(normal_batches(seed=5))
    torch.testing.assert_close(large(10 * x), 10 * plain(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(large.encode(10 * x), 10 * plain.encode(x), rtol=1e-3, atol=1e-3)


def test_input_scale():
    x = next(normal_batches(d_mlp=8, n_rows=1000)) * 7
    scale = input_scale(float(x.square().sum(1).mean()), 8)
    assert float((scale * x).square().sum(1).mean()) == pytest.approx(8, rel=1e-5)
    for nothing in (0.0, float("nan"), float("inf")):
        with pytest.raises(NumericsError, match="mean square norm"):
            input_scale(nothing, 8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_input_stops_before_the_update(value):
    def batches():
        for i, x in enumerate(normal_batches()):
            if i == 5:
                x[3, 2] = value
            yield x

    trainer = Trainer(config(), batches())
    with pytest.raises(NumericsError, match="at step 5; 1 of its 40 rows hold NaN or infinity"):
        trainer.train()
    assert all(torch.isfinite(w).all() for w in trainer.weights)


def test_weights_that_diverged_in_the_last_step_are_not_handed_out():
    trainer = Trainer(config(n_steps=1, resample_at=(), learning_rate=1e38), normal_batches())
    with pytest.raises(NumericsError, match="nothing is saved"):
        trainer.train()


def test_records_say_what_happened():
    history = History()
    trainer = Trainer(config(resample_at=(0.5,)), normal_batches(), observers=[history])
    trainer.train()
    records = [row for row in history.rows if "event" not in row]
    assert [row["step"] for row in records] == [4, 8, 12]
    for row in records:
        assert row["loss"] == pytest.approx(row["squared_error"] + row["lambda"] * row["l1"], rel=1e-5)
        assert 0 <= row["l0"] <= 24
    assert [row["step"] for row in history.rows if "event" in row] == [6]
    assert "seconds" not in records[0]


def test_more_features_than_sense():
    with pytest.raises(ConfigError, match="n_features"):
        Trainer(config(n_features=8 * 1024 + 1), normal_batches())


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_features": 0},
        {"l1": -1.0},
        {"learning_rate": 0.0},
        {"learning_rate": float("inf")},
        {"l1": float("nan")},
        {"betas": (2.0, 0.9)},
        {"betas": (0.9, 1.0)},
        {"ultralow": -5.0},
        {"density_window": -1.0},
        {"resample_at": (0.5, 0.2)},
        {"resample_at": (1.5,)},
        {"warmup": 0.6, "decay": 0.6},
        {"resample_window": 2.0},
    ],
)
def test_impossible_parameters_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        config(**wrong)


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
