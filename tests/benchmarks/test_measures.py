"""The measures on dictionaries whose worth is known, and weights of other conventions against plain numpy."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks import measures
from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.errors import ConfigError
from sae.metrics.density import Firing, summarize
from sae.toys.synthetic import SyntheticConfig, SyntheticRows

CONFIG = SyntheticConfig(n_features=16, d_mlp=16, mean_l0=2.0, noise=0.0)


def orthogonal(**changes):
    """A toy whose feature i is neuron i, so that the identity encodes it exactly."""
    toy = SyntheticRows(dataclasses.replace(CONFIG, **changes))
    toy.directions = torch.eye(16)
    return toy


def identity(W_dec=None):
    W_dec = torch.eye(16) if W_dec is None else W_dec
    return TiedBiasDictionary(torch.eye(len(W_dec), 16), torch.zeros(len(W_dec)), W_dec, torch.zeros(16))


def measured(dictionary, toy, n_rows=5_000):
    return measures.measure(dictionary, toy.batches(512, seed=1), n_rows=n_rows, directions_true=toy.directions)


def test_the_truth_leaves_nothing_to_wish_for():
    found = measured(identity(), toy := orthogonal())
    assert found.reconstruction.fvu == 0.0
    assert found.reconstruction.n_tokens == found.density.n_tokens == 5_000
    rows = torch.cat([toy.sample(512, 1, k).rows for k in range(10)])[:5_000]
    assert found.reconstruction.l0 == found.density.l0 == pytest.approx((rows > 0).sum(1).double().mean())
    assert (found.density.n_dead, found.recovery.recovered, found.recovery.n_invented) == (0, 1.0, 0)


def test_dead_features_are_counted_and_recover_nothing():
    dictionary = identity()
    dictionary.b_enc[3] = -100.0
    found = measured(dictionary, orthogonal())
    assert found.density.n_dead == 1
    assert found.recovery.n_learned == 15
    assert found.recovery.n_missed == 1
    assert found.reconstruction.fvu > 0


def test_numbers_do_not_depend_on_how_many_entries_are_encoded_at_once(monkeypatch):
    one = measured(identity(), orthogonal(noise=0.1))
    monkeypatch.setattr(measures, "ENTRIES_AT_ONCE", 16 * 100)
    other = measured(identity(), orthogonal(noise=0.1))
    assert one.density == other.density
    assert one.reconstruction == pytest.approx(other.reconstruction)


def test_ultralow_is_unknown_below_300_000_rows_and_counted_there():
    toy = orthogonal()
    assert measured(identity(), toy).density.n_ultralow is None
    assert measured(identity(), toy, n_rows=measures.N_ROWS).density.n_ultralow == 0


def test_rows_that_run_out_are_told():
    with pytest.raises(ConfigError, match="100 rows asked for and 90 given"):
        measures.measure(identity(), iter([torch.zeros(45, 16)] * 2), n_rows=100)


def test_the_truth_is_wrong_by_the_noise_alone():
    """FVU = d σ² / (d σ² + Σ_i Var f_i), where features are orthogonal and independent; E f² = 1 + 0.8², E f = 1 where active."""
    toy = orthogonal(noise=0.2, nonnegative=False)
    p = toy.frequencies.numpy()
    signal, noise = (p * 1.64 - p**2).sum(), 16 * 0.04
    found = measures.measure_truth(toy, seed=1, n_rows=50_000)
    assert found.reconstruction.n_tokens == 50_000
    assert found.reconstruction.fvu == pytest.approx(noise / (noise + signal), rel=0.02)
    assert found.reconstruction.l0 == pytest.approx(2.0, rel=0.02)
    assert (found.recovery.recovered, found.density.n_dead) == (1.0, 0)


def test_the_truth_is_measured_on_the_rows_that_dictionaries_are_measured_on():
    toy = orthogonal()
    truth, same = measures.measure_truth(toy, seed=1, n_rows=5_000, batch_size=512), measured(identity(), toy)
    assert truth.density == same.density
    assert truth.reconstruction == same.reconstruction


@pytest.mark.parametrize("tied", [True, False])
def test_weights_of_other_conventions_fire_and_reconstruct_alike(tied):
    g = torch.Generator().manual_seed(0)
    W_enc, W_dec = torch.randn(24, 16, generator=g), 3 * torch.randn(24, 16, generator=g)
    b_enc, b_dec, x = torch.randn(24, generator=g), torch.randn(16, generator=g), torch.randn(50, 16, generator=g)
    W_dec[5] = 0
    dictionary = measures.from_weights(W_enc, b_enc, W_dec, b_dec, tied=tied)
    e, d, be, bd, rows = (tensor.double().numpy() for tensor in (W_enc, W_dec, b_enc, b_dec, x))
    f = np.maximum((rows - bd * tied) @ e.T + be, 0)
    norm = np.linalg.norm(d, axis=1)
    norm[5] = 1.0
    np.testing.assert_allclose(dictionary.encode(x), f * norm, atol=2e-4)
    np.testing.assert_allclose(dictionary(x), f @ d + bd, atol=2e-4)
    np.testing.assert_allclose(np.delete(dictionary.W_dec.norm(dim=1).numpy(), 5), 1.0, atol=1e-6)


def test_table_has_the_mean_and_deviation_over_seeds():
    toy = orthogonal()
    whole = measured(identity(), toy)
    half = measured(identity(torch.cat([torch.eye(16)[:8], -torch.eye(16)[8:]])), toy)
    unknown = whole._replace(recovery=None)
    lines = measures.table({"both": [whole, half], "alone": [half], "pipeline": [unknown]}).splitlines()
    header, both, alone, pipeline = ([cell.strip() for cell in line.split("|")[1:-1]] for line in (lines[0], *lines[2:]))
    assert len(header) == len(both) == len(alone) == len(pipeline) == lines[1].count("---")
    for name, expected in (("recovered", ("0.75 ± 0.4", "0.5", "")), ("missed", ("0.25 ± 0.4", "0.5", ""))):
        assert tuple(line[header.index(name)] for line in (both, alone, pipeline)) == expected
    assert [line[header.index("seeds")] for line in (both, alone, pipeline)] == ["2", "1", "1"]
    assert "ultralow" not in header  # unknown for all, so not shown
    assert "loss recovered" not in header
    assert alone[header.index("invented")] == "0.5"


def test_columns_are_fractions():
    firing = Firing.zeros(4)
    firing.n_rows, firing.n_active = 1_000_000, torch.tensor([0, 2, 500, 100_000])
    whole = measured(identity(), orthogonal())
    values = measures.columns(whole._replace(density=summarize(firing, measures.ULTRALOW)))
    assert dict(zip(measures.COLUMNS, values, strict=True))["dead"] == 0.25
    assert dict(zip(measures.COLUMNS, values, strict=True))["ultralow"] == 0.25


def test_copies_beyond_the_first_are_duplicates_of_the_learned():
    copies = torch.eye(16)[[0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]]
    dictionary = TiedBiasDictionary(copies, torch.zeros(16), copies, torch.zeros(16))
    found = dict(zip(measures.COLUMNS, measures.columns(measured(dictionary, orthogonal())), strict=True))
    assert (found["split"], found["duplicates"], found["invented"]) == (2 / 16, 3 / 16, 0.0)
