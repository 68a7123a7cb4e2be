"""Every contestant gets the same task, and it is the one that is said."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import train_step
from benchmarks.batches import batches
from benchmarks.problem import StoreRows, TimingRows, parse_l0, shift_to_l0, source_of, weights_from_rows
from benchmarks.steppers.ours import Ours
from benchmarks.steppers.plain import Plain
from benchmarks.train_step import check_same_task
from sae.errors import ConfigError
from tests.support.activations import write_store


@pytest.fixture(scope="module")
def rows():
    return TimingRows(seed=5).draw(256)


@pytest.fixture
def weights(rows):
    made = weights_from_rows(rows, 96)
    shift_to_l0(made, rows, 12)
    return made


@pytest.mark.parametrize(("kind", "nonzero"), [("relu", 1 / 7), ("relu-half", 0.5), ("gelu", 1.0)])
def test_rows_are_as_described(kind, nonzero):
    rows = TimingRows(seed=5, kind=kind).draw(256)
    assert rows.shape == (256, 512)
    assert float((rows != 0).float().mean()) == pytest.approx(nonzero, rel=0.03)
    assert float(rows.norm(dim=1).mean()) == pytest.approx(512**0.5, rel=0.05)
    assert torch.equal(rows, source_of(kind, 5).draw(256))
    if kind != "gelu":
        assert float(rows.min()) == 0
    else:
        assert float((rows < 0).float().mean()) == pytest.approx(0.85, abs=0.04), "of a mean of -1 and a deviation of 1"


def test_shift_reaches_the_l0(rows, weights):
    x, W, b, centre = (tensor.double().numpy() for tensor in (rows, weights["W_enc"], weights["b_enc"], weights["b_dec"]))
    assert ((x - centre) @ W.T + b > 0).sum(1).mean() == pytest.approx(12, abs=2 / 256)
    np.testing.assert_allclose(np.linalg.norm(weights["W_dec"], axis=1), 1, rtol=1e-5)


def test_rows_of_a_store(tmp_path):
    values = np.random.default_rng(0).standard_normal((9000, 4)).astype(np.float16)
    write_store(made := tmp_path / "store", values, np.zeros((9000, 2), np.uint32))
    drawn = source_of(str(made), seed=3).draw(5000)
    assert drawn.shape == (5000, 4)
    assert float(drawn.norm(dim=1).mean()) == pytest.approx(2, rel=0.02)
    assert torch.equal(drawn, StoreRows(made, seed=3).draw(5000))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"rows": ("relu", "nonsense")}, "--rows nonsense: must be one of relu, relu-half, gelu, or the path"),
        ({"l0": ("20", "many")}, "--l0 many: must be"),
    ],
)
def test_wrong_rows_are_told_before_anything_is_timed(monkeypatch, wrong, told):
    monkeypatch.setattr(train_step, "write_problem", lambda *_, **__: pytest.fail("began"))
    monkeypatch.setattr(sys, "argv", ["train_step"])
    with pytest.raises(ConfigError, match=told):
        train_step.run(replace(train_step.parse()[0], **wrong))


def test_l0_as_text():
    assert parse_l0("20", 4096) == 20
    assert parse_l0("5%", 4096) == pytest.approx(204.8)
    for wrong in ("0", "200%", "4096", "-3", "many", "%"):
        with pytest.raises(ConfigError, match="--l0"):
            parse_l0(wrong, 4096)


def test_plain_and_ours_do_the_same_steps(rows, weights):
    settings = {"l1": 3.0, "learning_rate": 1e-3, "batch_size": 256}
    plain, ours = Plain(weights, **settings), Ours(weights, **settings)
    assert plain.measure(rows) == pytest.approx((12, plain.measure(rows)[1]), rel=1e-3)
    for _ in range(5):
        plain.step(rows)
        ours.step(rows)
    for name, parameter in zip(("W_enc", "b_enc", "W_dec", "b_dec"), plain.parameters, strict=True):
        before, after = weights[name], getattr(ours.weights(), name)
        moved = float((after - before).norm())
        assert float((parameter.detach() - after).norm()) < 5e-3 * moved, name
        assert moved > 0, name


def test_another_task_is_refused():
    same = {"l0": 20.0, "squared_error": 100.0}
    off = {"l0": 20.1, "squared_error": 101.0}
    check_same_task({"plain": same, "ours": same, "plain_autocast": off, "saelens_autocast": off, "sparsify": {"l0": 32.0}})
    with pytest.raises(ConfigError, match=r"ours does another task: l0 20.1 .* 20 "):
        check_same_task({"plain": same, "dictionary_learning": same, "ours": off})
    with pytest.raises(ConfigError, match="ours does another task: squared_error nan"):
        check_same_task({"plain": same, "ours": {"l0": 20.0, "squared_error": float("nan")}, "saelens": same})


def test_batches_are_epochs_of_a_seed():
    rows = torch.arange(10.0)[:, None]
    feed = batches(rows, 3, seed=4)
    epoch = torch.cat([next(feed) for _ in range(3)])
    assert len(epoch.unique()) == 9
    again = batches(rows, 3, seed=4)
    assert torch.equal(epoch, torch.cat([next(again) for _ in range(3)]))
    assert not torch.equal(epoch, torch.cat([next(feed) for _ in range(3)]))
    with pytest.raises(ValueError, match="11 from 10"):
        next(batches(rows, 11, seed=4))
