"""The two recipes, a test for each thing that their papers say; resampling has a file of its own, whole runs are in
`test_trainer`. Words in quotes are the paper's (*Towards Monosemanticity*, 2023; Circuits Updates, April 2024)."""

import math

import numpy as np
import pytest
import torch

from sae.dictionary.relu import ReluDictionary
from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.training.config import TrainConfig
from sae.training.data import SCALE_BATCHES
from sae.training.fit import fit, make_feed
from sae.training.initial import geometric_median, initial_weights
from sae.training.recipes import RECIPES
from tests.support.toy_training import copied, drive, toy_config, toy_rows, toy_trainer

PAPER, APRIL = RECIPES["monosemanticity"], RECIPES["april2024"]


def start_of(recipe, n_features=5000, d_mlp=64):
    first = toy_rows(100, d_mlp)
    return initial_weights(recipe, n_features, first, np.random.default_rng(0)), first


class TestMonosemanticity:
    def test_bias_is_tied(self):
        """ "We tie the biases applied in the input and output": shifting data and b_dec together changes no feature."""
        dictionary = drive(*toy_trainer(toy_config(n_steps=5))).dictionary()
        assert type(dictionary) is TiedBiasDictionary
        x, f = toy_rows(7, seed=1), dictionary.encode(toy_rows(7, seed=1))
        dictionary.b_dec += 3.0
        torch.testing.assert_close(dictionary.encode(x + 3.0), f, rtol=1e-4, atol=1e-5)

    def test_weights_are_not_tied(self):
        """Encoder and decoder start apart and are learned apart."""
        weights, _ = start_of(PAPER)
        assert float(torch.nn.functional.cosine_similarity(weights.W_enc, weights.W_dec).abs().mean()) < 0.15

    def test_weights_start_kaiming_uniform(self):
        """PyTorch's default for a linear layer: uniform, up to 1/√fan_in."""
        weights, _ = start_of(PAPER)
        for part in (weights.W_enc, weights.b_enc):
            assert float(part.abs().max()) <= 1 / 8
            assert float(part.std()) == pytest.approx(1 / 8 / math.sqrt(3), rel=0.05)
            assert abs(float(part.mean())) < 0.01
        torch.testing.assert_close(weights.W_dec.norm(dim=1), torch.ones(5000))

    def test_decoder_bias_starts_at_the_geometric_median(self):
        """ "geometric median of the dataset": of its first batch, scaled as it is trained on."""
        weights, first = start_of(PAPER)
        assert torch.equal(weights.b_dec, geometric_median(first))
        trainer, feed = toy_trainer(toy_config(), scale=3.0)
        torch.testing.assert_close(trainer.state.weights.b_dec, 3.0 * geometric_median(feed.first()))

    def test_dictionary_vectors_have_unit_norm_at_every_step(self):
        trainer, feed = toy_trainer(toy_config())
        for _ in range(30):
            torch.testing.assert_close(trainer.state.weights.W_dec.norm(dim=1), torch.ones(24))
            drive(trainer, feed, 1)

    def test_gradient_parallel_to_dictionary_vectors_is_removed_before_adam(self):
        """ "... remove any gradient information parallel to our dictionary vectors before applying the gradient step":
        Adam's first moment after one step is a tenth of what it was given."""
        trainer, feed = toy_trainer(toy_config())
        W_dec = trainer.state.weights.W_dec.clone()
        drive(trainer, feed, 1)
        first = trainer.state.first.W_dec
        assert float(first.norm(dim=1).max()) > 1e-3
        torch.testing.assert_close((first * W_dec).sum(1), torch.zeros(24), atol=1e-6, rtol=0)

    def test_l1_is_a_sum_and_the_error_a_mean(self):
        """ "the MSE is a mean over each vector element while the L1 penalty is a sum": λ = 0.004 of 512 is 2.05 here."""
        paper = TrainConfig(recipe="monosemanticity", l1=0.004, l1_convention="mean")
        assert paper.summed_l1(512) == pytest.approx(TrainConfig(recipe="monosemanticity").summed_l1(512), rel=0.01)

    def test_batches_of_8192_a_million_times_without_replacement(self):
        assert TrainConfig().sized(None).batch_size == 8192
        assert PAPER.n_steps == 1_000_000
        feed = make_feed(torch.arange(120.0)[:, None], 40, 0)
        assert sorted(torch.cat([feed.next() for _ in range(3)])[:, 0].tolist()) == list(range(120))

    def test_learning_rate_and_lambda_stay(self):
        """Annealing "did not further increase performance"."""
        schedule = PAPER.schedule(1000)
        assert {(schedule.learning_rate(step), schedule.l1(step)) for step in range(1000)} == {(1.0, 1.0)}
        assert PAPER.max_gradient_norm is None


class TestApril2024:
    def test_no_pre_encoder_bias(self):
        dictionary = drive(*toy_trainer(toy_config(recipe="april2024"))).dictionary()
        assert type(dictionary) is ReluDictionary
        x, f = toy_rows(7, seed=1), dictionary.encode(toy_rows(7, seed=1))
        dictionary.b_dec += 3.0
        assert torch.equal(dictionary.encode(x), f)

    def test_sparsity_counts_f_times_the_norm_of_its_vector(self):
        """ "λ Σ_i f_i ‖W_d,i‖": the step's L1 against the weights before it; making a vector longer and its feature smaller
        changes nothing."""
        trainer, feed = toy_trainer(toy_config(recipe="april2024"))
        drive(trainer, feed, 20)
        W_enc, b_enc, W_dec, _ = copied(trainer.state.weights)
        x = feed.next()
        f = torch.relu(x @ W_enc.T + b_enc)
        result = trainer.engine.step(x, 1.0, 1e-9)
        assert float(result.l1) == pytest.approx(float((f * W_dec.norm(dim=1)).sum() / len(x)), rel=1e-5)

    def test_norms_are_free(self):
        trainer = drive(*toy_trainer(toy_config(recipe="april2024")))
        norms = trainer.state.weights.W_dec.norm(dim=1)
        assert float(norms.max() / norms.min()) > 1.1
        torch.testing.assert_close(trainer.dictionary().W_dec.norm(dim=1), torch.ones(24))

    def test_no_resampling(self):
        assert APRIL.schedule(200_000).resample_steps == ()

    def test_weights_start_transposed(self):
        """W_dec in random directions "of norm 0.1", W_enc = W_decᵀ, biases zero."""
        weights, _ = start_of(APRIL)
        torch.testing.assert_close(weights.W_dec.norm(dim=1), torch.full((5000,), 0.1))
        assert float(torch.nn.functional.normalize(weights.W_dec, dim=1).mean(0).norm()) < 5 / math.sqrt(5000)
        assert torch.equal(weights.W_enc, weights.W_dec)
        assert weights.W_enc.data_ptr() != weights.W_dec.data_ptr()
        assert not weights.b_enc.any()
        assert not weights.b_dec.any()

    def test_lambda_rises_over_the_first_twentieth(self):
        """ "λ is linearly increased from 0 to its final value over the first 5 % of training steps", and is 5 then."""
        trainer, _ = toy_trainer(toy_config(recipe="april2024", n_steps=200))
        values = [trainer.l1_at(step) for step in range(200)]
        assert values[:10] == pytest.approx([0.5 * (step + 1) for step in range(10)])
        assert set(values[9:]) == {5.0}

    def test_learning_rate_falls_to_zero_over_the_last_fifth(self):
        factors = [APRIL.schedule(100).learning_rate(step) for step in range(101)]
        assert set(factors[:81]) == {1.0}
        assert factors[81:] == pytest.approx([(100 - step) / 20 for step in range(81, 101)])

    def test_learning_rate_and_steps(self):
        """5e-5 for 200,000 steps."""
        assert (APRIL.learning_rate, APRIL.n_steps) == (5e-5, 200_000)
        assert TrainConfig(recipe="april2024", n_steps=200_000).settled().learning_rate == 5e-5

    def test_gradients_are_clipped_to_norm_one(self):
        """Adam's first moment after one step is a tenth of what it was given."""
        trainer, feed = toy_trainer(toy_config(recipe="april2024", learning_rate=1e-5), toy_rows() * 10)
        x = feed.next()
        assert float(trainer.engine.step(x, 5.0, 1e-5).gradient_norm) > 10
        given = sum(float(moment.double().square().sum()) for moment in trainer.state.first) ** 0.5 * 10
        assert given == pytest.approx(1.0, rel=1e-4)

    def test_no_weight_decay(self):
        """A feature that never fires is not changed."""
        trainer, feed = toy_trainer(toy_config(recipe="april2024"))
        trainer.state.weights.b_enc[3] = -1e6
        trainer.engine.refresh()
        before = copied(trainer.state.weights)
        drive(trainer, feed)
        for name in ("W_enc", "b_enc", "W_dec"):
            assert torch.equal(getattr(trainer.state.weights, name)[3], getattr(before, name)[3])

    def test_inputs_are_scaled_by_one_constant(self):
        """To a mean ‖x‖² of d_mlp (`input_scale` on which paper says what)."""
        trained = fit(toy_rows() * 7, [toy_config(recipe="april2024", n_steps=2)])[0]
        scale = trained.dictionary.run.facts["input_scale"]
        assert float((toy_rows() * 7 * scale).square().sum(1).mean()) == pytest.approx(8, rel=1e-5)
        assert SCALE_BATCHES == 8


@pytest.mark.parametrize("recipe", RECIPES)
def test_adam_betas(recipe):
    assert RECIPES[recipe].betas == (0.9, 0.999)


def test_switch_l1_convention():
    """λ against a mean over d_mlp = 8 is 8 λ against a sum: the same run, bit for bit."""
    summed, mean = (
        drive(*toy_trainer(toy_config(l1=l1, l1_convention=convention))).dictionary()
        for l1, convention in ((2.0, "sum"), (0.25, "mean"))
    )
    assert torch.equal(summed.W_enc, mean.W_enc)


@pytest.mark.parametrize(("when", "unit"), [("after", True), ("before", False)])
def test_switch_renormalise(when, unit):
    """After Adam's step, or before it: the forward pass then sees vectors off 1 by a step's length."""
    trainer = drive(*toy_trainer(toy_config(renormalise=when)))
    off = (trainer.state.weights.W_dec.norm(dim=1) - 1).abs()
    assert float(off.max()) < 1e-5 if unit else 1e-5 < float(off.max()) < 0.1
    torch.testing.assert_close(trainer.dictionary().W_dec.norm(dim=1), torch.ones(24))


def test_learning_rate_of_a_short_run():
    """Raised as the square root of how much shorter it is, up to a limit; never lowered."""
    assert PAPER.learning_rate_for(1_000_000) == PAPER.learning_rate_for(2_000_000) == 1e-4
    assert PAPER.learning_rate_for(250_000) == pytest.approx(2e-4)
    assert PAPER.learning_rate_for(1000) == PAPER.most_learning_rate
