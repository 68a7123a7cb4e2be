"""Neuron resampling, one test for each sentence of Towards Monosemanticity's recipe."""

import numpy as np
import pytest
import torch

from sae.kernels.gradients import Weights
from sae.training.optimizer import ConstrainedAdam
from sae.training.resampling import ENCODER_SCALE, draw_inputs, resample, row_losses
from sae.training.trainer import TrainConfig, Trainer
from tests.support.problems import problem


def generator():
    return torch.Generator().manual_seed(0)


def resampled(dead_indices, subtract_bias=True):
    weights, x = problem(n_features=10)
    optimizer = ConstrainedAdam(weights, (0.9, 0.999))
    for _ in range(3):
        optimizer.step(Weights(*(torch.randn_like(w) for w in weights)), 1e-3)
    dead = torch.zeros(10, dtype=torch.bool)
    dead[dead_indices] = True
    before = Weights(*(w.clone() for w in weights))
    resample(weights, optimizer, dead, x[: len(dead_indices)], subtract_bias=subtract_bias)
    return before, weights, optimizer, x, dead


def test_at_the_stated_steps():
    """ "At training steps 25,000, 50,000, 75,000 and 100,000 ..." of a million."""
    schedule = TrainConfig(n_steps=1_000_000).schedule()
    assert schedule.resample_steps == (25_000, 50_000, 75_000, 100_000)


def test_dead_are_those_silent_over_the_window_before():
    """ "... identify which neurons have not fired in any of the previous 12,500 training steps." """
    schedule = TrainConfig(n_steps=1_000_000).schedule()
    assert schedule.window_steps == 12_500
    starts = [step for step in range(0, 110_000, 500) if schedule.counters_start(step)]
    assert starts == [12_500, 37_500, 62_500, 87_500]


def test_a_feature_that_fired_only_before_the_window_is_resampled():
    """The trainer counts firing over the window only."""
    d_mlp, events = 4, []

    class Recorder:
        def event(self, step, name, values):
            events.append((step, values["n_resampled"], values["n_rows_silent"]))

        def record(self, *_):
            pass

        def advance(self, *_):
            pass

        def close(self):
            pass

    def batches():
        step = 0
        while True:
            # Direction 0 is present in the first 5 steps only; all features start aligned with 0 and 1.
            x = torch.zeros(8, d_mlp)
            x[:, 0 if step < 6 else 1] = 1.0
            yield x
            step += 1

    config = TrainConfig(
        n_features=2, batch_size=8, n_steps=20, resample_at=(0.5,), resample_window=0.2, learning_rate=1e-9, resample_inputs=8
    )
    trainer = Trainer(config, batches(), observers=[Recorder()])
    trainer.weights.W_enc.copy_(torch.eye(2, d_mlp))
    trainer.weights.W_dec.copy_(torch.eye(2, d_mlp))
    trainer.weights.b_enc.fill_(-0.1)
    trainer.weights.b_dec.zero_()
    trainer.train()
    assert events == [(10, 1, 4 * 8)]


def test_loss_is_computed_on_a_subset_of_inputs():
    """ "Compute the loss of the current model on a random subset of 819,200 inputs." """
    assert TrainConfig().resample_inputs == 819_200
    weights, x = problem()
    losses = row_losses(weights, x, 0.5)
    W_enc, b_enc, W_dec, b_dec = (np.asarray(w.double()) for w in weights)
    for row, loss in zip(np.asarray(x.double()), losses, strict=True):
        f = np.maximum(W_enc @ (row - b_dec) + b_enc, 0)
        assert float(loss) == pytest.approx(((row - W_dec.T @ f - b_dec) ** 2).sum() + 0.5 * f.sum(), rel=1e-4)


def test_probability_is_the_loss_squared():
    """ "Assign each input vector a probability of being picked that is proportional to the square of its loss."

    Over several batches, so that draws from the earlier ones are given up at the right rate."""
    weights, x = problem(n_rows=6)
    p = row_losses(weights, x, 0.5).double().square()
    p /= p.sum()
    n = 60_000
    drawn = draw_inputs(weights, [x[:1], x[1:4], x[4:]], n, 0.5, generator())
    counts = torch.tensor([(drawn == row).all(1).sum() for row in x])
    assert int(counts.sum()) == n
    spread = (n * p * (1 - p)).sqrt()
    assert ((counts - n * p).abs() < 4.5 * spread).all()


def test_dictionary_vector_is_the_input_normalised():
    """ "For each dead neuron sample an input according to these probabilities. Renormalize the input vector to have unit
    L2 norm and set this to be the dictionary vector for the dead autoencoder neuron." """
    before, weights, _, x, _ = resampled([2, 7])
    torch.testing.assert_close(weights.W_dec[[2, 7]], torch.nn.functional.normalize(x[:2] - before.b_dec, dim=1))
    _, weights, _, x, _ = resampled([2, 7], subtract_bias=False)
    torch.testing.assert_close(weights.W_dec[[2, 7]], torch.nn.functional.normalize(x[:2], dim=1))


def test_encoder_row_has_a_fifth_of_the_alive_norm():
    """ "For the corresponding encoder vector, renormalize the input vector to equal the average norm of the encoder weights
    for alive neurons × 0.2." """
    before, weights, _, _, dead = resampled([2, 7])
    assert ENCODER_SCALE == 0.2
    norm = before.W_enc[~dead].norm(dim=1).mean()
    torch.testing.assert_close(weights.W_enc[[2, 7]], weights.W_dec[[2, 7]] * norm * 0.2)


def test_encoder_bias_is_zero():
    """ "Set the corresponding encoder bias element to zero." """
    _, weights, *_ = resampled([2, 7])
    assert not weights.b_enc[[2, 7]].any()


def test_adam_is_reset_for_what_was_changed_and_for_nothing_else():
    """ "Reset the Adam optimizer parameters for every modified weight and bias term." """
    _, _, optimizer, _, dead = resampled([2, 7])
    for name, parameter in zip(Weights._fields, optimizer.parameters, strict=True):
        for moment in ("exp_avg", "exp_avg_sq"):
            state = optimizer.adam.state[parameter][moment]
            if name == "b_dec":
                assert state.all()
            else:
                assert not state[dead].any()
                assert state[~dead].all()


def test_alive_features_keep_their_weights():
    before, weights, _, _, dead = resampled([2, 7])
    for name in ("W_enc", "b_enc", "W_dec"):
        assert torch.equal(getattr(weights, name)[~dead], getattr(before, name)[~dead])
    assert torch.equal(weights.b_dec, before.b_dec)


def test_all_features_dead():
    before, weights, *_ = resampled(list(range(10)))
    norm = before.W_enc.norm(dim=1).mean()
    torch.testing.assert_close(weights.W_enc.norm(dim=1), torch.full((10,), float(norm) * 0.2))


def test_more_dead_features_than_inputs():
    weights, x = problem(n_rows=2, n_features=10)
    assert draw_inputs(weights, [x], 10, 0.5, generator()).shape == (10, x.shape[1])


def test_an_input_at_the_decoder_bias_gives_a_unit_vector():
    weights, _ = problem(n_features=3)
    optimizer = ConstrainedAdam(weights, (0.9, 0.999))
    resample(weights, optimizer, torch.tensor([True, False, False]), weights.b_dec[None].clone(), subtract_bias=True)
    assert float(weights.W_dec[0].norm()) == pytest.approx(1.0)
