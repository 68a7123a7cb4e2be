"""The two passes against slow versions over dense arrays; what is spliced where."""

import math

import numpy as np
import pytest
import torch

from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.errors import ConfigError
from sae.features.evaluation import EvaluateConfig, evaluate
from sae.features.passes import batches, splice
from tests.features.toy import dense, setup

CONFIG = EvaluateConfig(n_tokens=160, n_density_tokens=10_000, n_bootstrap=50)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    source, dictionary, tokens = setup(tmp_path_factory.mktemp("evaluation"))
    dictionary.b_enc[5] = -1.0
    return source, dictionary, tokens.split("heldout")


def exact(d_mlp=16):
    """f = (x, -x) positive parts: a dictionary that reconstructs everything."""
    eye = torch.eye(d_mlp)
    W = torch.cat([eye, -eye])
    return TiedBiasDictionary(W, torch.zeros(2 * d_mlp), W, torch.full((d_mlp,), 0.25))


def test_densities_are_over_all_and_reconstruction_over_the_first_contexts(made):
    source, dictionary, split = made
    found = evaluate(source, dictionary, split, CONFIG)
    x, f, _ = dense(source, dictionary, split[0:20])
    np.testing.assert_array_equal(found.densities.features.n_active, (f > 0).sum(0))
    np.testing.assert_array_equal(found.densities.neurons.n_active, (x > 0).sum(0))
    np.testing.assert_allclose(found.densities.mean, x.mean(0), rtol=1e-5)
    x, f, _ = dense(source, dictionary, split[0:10])
    x_hat = f @ dictionary.W_dec.numpy() + dictionary.b_dec.numpy()
    metrics = found.metrics(CONFIG)
    reconstruction = metrics["reconstruction"]
    assert reconstruction["n_tokens"] == len(x) == 150
    assert reconstruction["squared_error_sum"] == pytest.approx(((x - x_hat) ** 2).sum(1).mean(), rel=1e-5)
    assert reconstruction["fvu"] == pytest.approx(((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(), rel=1e-5)
    assert reconstruction["l0"] == pytest.approx((f > 0).sum(1).mean())
    assert reconstruction["l1"] == pytest.approx(f.sum(1).mean(), rel=1e-5)
    assert metrics["features"]["n_dead"] == (f > 0).sum(0).tolist().count(0) == 1
    assert metrics["neurons"]["l0"] == pytest.approx((dense(source, dictionary, split[0:20])[0] > 0).sum(1).mean())


def test_losses_by_hand_over_one_context_at_a_time(made):
    """Every forward pass written out again: BOS stays clean, the mean is that of the density pass."""
    source, dictionary, split = made
    found = evaluate(source, dictionary, split, CONFIG)
    mean = found.densities.mean
    for context in range(10):
        tokens = torch.from_numpy(split[context : context + 1].tokens.astype(np.int64))
        x = source.activations(tokens)

        def after(spliced, x=x, tokens=tokens):
            spliced = torch.cat([x[:, :1], spliced[:, 1:]], dim=1)
            return source.logits(tokens, lambda _: spliced)[:, :-1].double().log_softmax(-1)

        variants = (x, dictionary(x), torch.zeros_like(x), mean.expand_as(x))
        log_probs = [after(variant) for variant in variants]
        sums = [float(-log_p.gather(-1, tokens[:, 1:, None]).sum()) for log_p in log_probs]
        clean, reconstructed = log_probs[:2]
        losses = found.losses
        assert losses.n_predicted[context] == 15
        for expected, measured in zip(sums, losses[1:5], strict=True):
            assert measured[context] == pytest.approx(expected, rel=1e-5)
        assert losses.kl[context] == pytest.approx(float((clean.exp() * (clean - reconstructed)).sum()), rel=1e-4)


def test_a_perfect_dictionary_recovers_everything(made):
    source, _, split = made
    metrics = evaluate(source, exact(), split, CONFIG).metrics(CONFIG)
    assert metrics["transformer"]["loss_recovered_zero"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["transformer"]["loss_reconstructed"] == pytest.approx(metrics["transformer"]["loss_clean"], abs=1e-5)
    # This transformer, which nobody trained, is better with its MLP at the mean: there is nothing to recover.
    assert metrics["transformer"]["loss_mean_ablated"] < metrics["transformer"]["loss_clean"]
    assert math.isnan(metrics["transformer"]["loss_recovered_mean"])
    assert metrics["transformer"]["nats_lost"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["transformer"]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["reconstruction"]["fvu"] == pytest.approx(0.0, abs=1e-10)
    assert metrics["features"]["encoder_decoder_cosine_median"] == pytest.approx(1.0)


def test_a_dictionary_that_says_nothing_is_its_bias(made):
    """No feature fires: the reconstruction is b_dec, and with b_dec = 0 the splice is zero ablation."""
    source, _, split = made
    silent = TiedBiasDictionary(torch.zeros(4, 16), -torch.ones(4), torch.zeros(4, 16), torch.zeros(16))
    metrics = evaluate(source, silent, split, CONFIG).metrics(CONFIG)
    assert metrics["transformer"]["loss_reconstructed"] == metrics["transformer"]["loss_zero_ablated"]
    assert metrics["transformer"]["loss_recovered_zero"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["features"]["n_alive"] == 0


def test_the_splice_leaves_bos_alone_and_the_clean_tensor_unchanged(made):
    source, _, split = made
    batch = next(batches(source, split, 4, contexts_per_batch=4, skip_bos=True, label=""))
    clean = source.activations(batch.tokens)
    kept = clean.clone()
    spliced = splice(batch, torch.zeros_like)(clean)
    torch.testing.assert_close(clean, kept)
    torch.testing.assert_close(spliced[:, 0], clean[:, 0])
    assert (spliced[:, 1:] == 0).all()


def test_a_large_vocabulary_makes_batches_smaller(made, monkeypatch):
    source, _, split = made
    monkeypatch.setattr("sae.features.passes.MAX_LOGITS", 3 * 16 * 50)
    sizes = [len(batch.tokens) for batch in batches(source, split, 7, contexts_per_batch=4, skip_bos=True, label="")]
    assert sizes == [3, 3, 1]


@pytest.mark.parametrize(("name", "value"), [("n_tokens", 0), ("n_bootstrap", 1), ("ultralow", 0.0), ("ultralow", 1.5)])
def test_impossible_parameters(name, value):
    with pytest.raises(ConfigError, match=name):
        EvaluateConfig(**{name: value})
