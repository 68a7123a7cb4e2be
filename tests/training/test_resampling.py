"""Neuron resampling, one test for each sentence of Towards Monosemanticity's recipe."""

from itertools import islice

import numpy as np
import pytest
import torch

from sae.kernels.gradients import Weights
from sae.kernels.objective import Objective
from sae.kernels.state import State
from sae.training.observers import History
from sae.training.recipes import RECIPES, Recipe
from sae.training.resampling import ENCODER_SCALE, draw_inputs, resample, row_losses
from tests.support import numpy_training
from tests.support.toy_training import DEAD, copied, drive, toy_config, toy_feed, toy_trainer

PAPER = RECIPES["monosemanticity"]


def problem(n_rows=40, n_features=10, d_mlp=8):
    chance = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=chance)

    W_dec = torch.nn.functional.normalize(normal(n_features, d_mlp), dim=1)
    return Weights(normal(n_features, d_mlp), normal(n_features), W_dec, normal(d_mlp)), normal(n_rows, d_mlp) * 2


def resampled(dead_indices, recipe=PAPER, inputs=None):
    """Weights before, the state after, the inputs given, and which features were dead; every moment was 1 before."""
    weights, x = problem()
    state = State.start(weights)
    for moments in (state.first, state.second):
        for moment in moments:
            moment.fill_(1.0)
    dead = torch.zeros(10, dtype=torch.bool)
    dead[dead_indices] = True
    before = copied(weights)
    resample(state, dead, x[: len(dead_indices)] if inputs is None else inputs, recipe)
    return before, state, x, dead


def test_at_the_stated_steps():
    """ "At training steps 25,000, 50,000, 75,000 and 100,000 ..." of a million."""
    assert PAPER.n_steps == 1_000_000
    assert PAPER.schedule(1_000_000).resample_steps == (25_000, 50_000, 75_000, 100_000)


def test_dead_are_those_silent_over_the_window_before():
    """ "... identify which neurons have not fired in any of the previous 12,500 training steps." """
    schedule = PAPER.schedule(1_000_000)
    assert schedule.window_steps == 12_500
    starts = [step for step in range(0, 110_000, 500) if schedule.counters_start(step)]
    assert starts == [12_500, 37_500, 62_500, 87_500]


def fires_only_early(**changes):
    """Two features aligned with directions 0 and 1; 0 is there in the first 6 of 20 steps, and in one row of step 8."""
    history, x = History(), torch.zeros(20, 8, 4)
    x[:6, :, 0] = x[6:, :, 1] = 1.0
    x[8, 0] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    sizes = {"n_features": 2, "batch_size": 8, "n_steps": 20, "learning_rate": 1e-9, "resample_inputs": 8}
    config = toy_config(**sizes, resample_at=(0.5,), **changes)
    trainer, _ = toy_trainer(config, x.flatten(0, 1), observers=[history])
    trainer.state.weights.W_enc.copy_(torch.eye(2, 4))
    trainer.state.weights.W_dec.copy_(torch.eye(2, 4))
    trainer.state.weights.b_enc.fill_(-0.1)
    trainer.state.weights.b_dec.zero_()
    trainer.engine.refresh()
    for batch in x:
        if trainer.resamples_now():
            trainer.resample(trainer.draw(lambda n: [x[0]] * n))
        trainer.step(batch)
    return [(row["step"], row["n_resampled"], row["n_rows_silent"]) for row in history.rows if "event" in row]


def test_a_feature_that_fired_only_before_the_window_is_resampled():
    """The trainer counts firing over the window only: one step, then two, of which the first has one row of it."""
    assert fires_only_early(resample_window=0.05) == [(10, 1, 8)]
    assert fires_only_early(resample_window=0.1) == [(10, 0, 2 * 8)]


def test_switch_resample_below():
    """Dead is what fired on at most this fraction of the window's rows; the paper's 0 asks for none."""
    assert PAPER.resample_below == 0.0
    assert fires_only_early(resample_window=0.1, resample_below=0.06) == [(10, 0, 16)]
    assert fires_only_early(resample_window=0.1, resample_below=0.07) == [(10, 1, 16)]


def test_loss_is_computed_on_a_random_subset_of_819_200_inputs():
    """ "Compute the loss of the current model on a random subset of 819,200 inputs." """
    assert PAPER.resample_inputs == 819_200
    trainer, feed = toy_trainer(toy_config(**DEAD, resample_inputs=100))
    asked = []

    def others(n_batches):
        asked.append(n_batches)
        return feed.others(n_batches)

    drive(trainer, feed, 18)
    assert trainer.resamples_now()
    trainer.window.n_fired[0] = 0
    trainer.draw(others)
    assert asked == [3]  # of 40 rows: at least 100
    seen = torch.cat(list(feed.others(3)))
    coming = torch.cat(list(islice(toy_feed(trainer.config).source.batches(40, start=18), 3)))
    assert not torch.equal(seen, coming), "the subset is what training sees next"


@pytest.mark.parametrize(("tied", "weighted"), [(True, False), (False, True)])
def test_loss_of_an_input_is_its_term_of_the_training_loss(tied, weighted):
    weights, x = problem()
    losses = row_losses(weights, x, 0.5, Objective(tied_bias=tied, weighted_l1=weighted))
    p = [weight.double().numpy() for weight in weights]
    for row, loss in zip(x.double().numpy(), losses, strict=True):
        assert float(loss) == pytest.approx(numpy_training.row_loss(p, row, 0.5, tied=tied, weighted=weighted), rel=1e-4)


def test_probability_is_the_loss_squared():
    """ "Assign each input vector a probability of being picked that is proportional to the square of its loss."

    Over several batches, so that draws from the earlier ones are given up at the right rate."""
    weights, x = problem(n_rows=6)
    p = row_losses(weights, x, 0.5, Objective()).double().square()
    p /= p.sum()
    n = 60_000
    drawn = draw_inputs(weights, [x[:1], x[1:4], x[4:]], n, 0.5, Objective(), np.random.default_rng(0))
    counts = torch.tensor([(drawn == row).all(1).sum() for row in x])
    assert int(counts.sum()) == n
    spread = (n * p * (1 - p)).sqrt()
    assert ((counts - n * p).abs() < 4.5 * spread).all()


@pytest.mark.parametrize(("loss", "share"), [("total", 0.5), ("squared_error", 0.0)])
def test_switch_resample_loss(loss, share):
    """Half of the inputs are reconstructed exactly, by a feature that costs as much L1 as the others' squared error: only the
    total loss ever draws those."""
    x = torch.zeros(80, 4)
    x[::2, 0], x[1::2, 1] = 100.0, 10.0
    config = toy_config(n_features=500, n_steps=10, resample_at=(0.5,), l1=1.0, resample_loss=loss)
    trainer, feed = toy_trainer(config, x)
    drive(trainer, feed, 5)
    for weight in trainer.state.weights:
        weight.zero_()
    trainer.state.weights.W_enc[0, 0] = trainer.state.weights.W_dec[0, 0] = 1.0
    trainer.window.clear()
    n_exact = int((trainer.draw(feed.others)[:, 0] > 0).sum())
    assert abs(n_exact - share * 500) < 4.5 * 12


def test_dictionary_vector_is_the_input_normalised():
    """ "For each dead neuron sample an input according to these probabilities. Renormalize the input vector to have unit
    L2 norm and set this to be the dictionary vector for the dead autoencoder neuron." """
    before, state, x, _ = resampled([2, 7])
    torch.testing.assert_close(state.weights.W_dec[[2, 7]], torch.nn.functional.normalize(x[:2] - before.b_dec, dim=1))


def test_switch_subtract_bias():
    """The input as the encoder sees it, x − b_dec, or as it is."""
    assert PAPER.subtract_bias
    _, state, x, _ = resampled([2, 7], Recipe(subtract_bias=False))
    torch.testing.assert_close(state.weights.W_dec[[2, 7]], torch.nn.functional.normalize(x[:2], dim=1))


def test_encoder_row_has_a_fifth_of_the_alive_norm():
    """ "For the corresponding encoder vector, renormalize the input vector to equal the average norm of the encoder weights
    for alive neurons × 0.2." """
    before, state, _, dead = resampled([2, 7])
    assert ENCODER_SCALE == 0.2
    norm = before.W_enc[~dead].norm(dim=1).mean()
    torch.testing.assert_close(state.weights.W_enc[[2, 7]], state.weights.W_dec[[2, 7]] * norm * 0.2)


def test_encoder_bias_is_zero():
    """ "Set the corresponding encoder bias element to zero." """
    assert not resampled([2, 7])[1].weights.b_enc[[2, 7]].any()


def test_adam_is_reset_for_what_was_changed_and_for_nothing_else():
    """ "Reset the Adam optimizer parameters for every modified weight and bias term." """
    _, state, _, dead = resampled([2, 7])
    for moments in (state.first, state.second):
        for name, moment in moments._asdict().items():
            if name == "b_dec":
                assert (moment == 1).all()
            else:
                assert not moment[dead].any()
                assert (moment[~dead] == 1).all()


def test_alive_features_keep_their_weights():
    before, state, _, dead = resampled([2, 7])
    for name in ("W_enc", "b_enc", "W_dec"):
        assert torch.equal(getattr(state.weights, name)[~dead], getattr(before, name)[~dead])
    assert torch.equal(state.weights.b_dec, before.b_dec)


def test_the_engine_knows_of_the_new_weights():
    """The screen's copy of W_enc: a resampled feature fires in the step that follows."""
    trainer, feed = toy_trainer(toy_config(**DEAD))
    drive(trainer, feed, 18)
    trainer.window.n_fired[:4] = 0
    dead = trainer._dead()
    trainer.resample(trainer.draw(feed.others))
    torch.testing.assert_close(torch.from_numpy(trainer.engine.update.norms), trainer.state.weights.W_enc.norm(dim=1))
    trainer.engine.density = 0.0  # the sparse step
    x = feed.next()
    W_enc, b_enc, _, b_dec = copied(trainer.state.weights)
    before = trainer.window.n_fired.clone()
    trainer.step(x)
    exact = (((x.double() - b_dec.double()) @ W_enc.double().T + b_enc.double()) > 0).sum(0)
    assert exact[dead].any()
    assert torch.equal(trainer.window.n_fired - before, exact)


def test_a_row_that_is_not_finite_is_never_drawn():
    """Nor does it keep the others from being drawn. (Where training meets it, it is refused.)"""
    weights, x = problem(n_rows=6)
    for row, value in ((0, float("nan")), (3, float("inf"))):
        x[row, 2] = value
    drawn = draw_inputs(weights, [x[:3], x[3:]], 1000, 0.5, Objective(), np.random.default_rng(0))
    assert torch.isfinite(drawn).all()
    assert len(drawn.unique(dim=0)) == 4


def test_all_features_dead():
    before, state, *_ = resampled(list(range(10)))
    norm = before.W_enc.norm(dim=1).mean()
    torch.testing.assert_close(state.weights.W_enc.norm(dim=1), torch.full((10,), float(norm) * 0.2))


def test_more_dead_features_than_inputs():
    weights, x = problem(n_rows=2)
    assert draw_inputs(weights, [x], 10, 0.5, Objective(), np.random.default_rng(0)).shape == (10, x.shape[1])


def test_an_input_at_the_decoder_bias_gives_a_unit_vector():
    weights, _ = problem()
    _, state, *_ = resampled([0], inputs=weights.b_dec[None].clone())
    assert float(state.weights.W_dec[0].norm()) == pytest.approx(1.0)
