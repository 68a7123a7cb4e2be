"""Training on a GPU that is not there: what lies around the kernels, with plain torch for these."""

import signal

import pytest
import torch

from sae.errors import ConfigError
from sae.training.data import Feed, TensorRows
from sae.training.fit import fit, train
from tests.storage.test_reading import store_of
from tests.support.pretended_device import Pretended, pretended
from tests.support.toy_training import DEAD, Watcher, assert_same_bits, toy_config, toy_rows

SHORT = {"engine": "dense", "n_steps": 30, "log_every": 5}
CONFIGS = [toy_config(**DEAD, **SHORT), toy_config(target_l0=3.0, **SHORT)]
SMALL = {"n_features": 24, "steps": 3, "batch_size": 40, "resample_inputs": 80, "engine": "dense"}


@pytest.fixture(scope="module")
def gpu():
    with pretended(2) as gpu:
        yield gpu


@pytest.fixture(scope="module")
def straight(gpu):
    return fit(toy_rows(), CONFIGS, device="cuda")


def test_stopped_and_resumed(straight, tmp_path):
    """With density windows behind it, a controller in the middle of its work, and resamplings before and after."""
    watchers = [[Watcher(lambda n: signal.raise_signal(signal.SIGTERM) if n == 17 else None)], []]
    with pytest.raises(SystemExit):
        fit(toy_rows(), CONFIGS, device="cuda", checkpoints=tmp_path, observers=watchers)
    resumed = fit(toy_rows(), CONFIGS, device="cuda", checkpoints=tmp_path, observers=[[Watcher(lambda n: None)], []])
    for one, other in zip(resumed, straight, strict=True):
        assert_same_bits(one, other)


def test_trains_as_on_the_cpu(straight):
    """The same operations on the same numbers; the controller's logarithms are torch's and not Python's."""
    for one, other in zip(straight, fit(toy_rows(), CONFIGS, device="cpu"), strict=True):
        torch.testing.assert_close(one.dictionary.W_enc, other.dictionary.W_enc, rtol=1e-4, atol=1e-5)
        assert one.dictionary.run.facts["lambda"] == pytest.approx(other.dictionary.run.facts["lambda"], rel=1e-6)


def test_a_dictionary_lies_where_its_rows_do(gpu):
    rows = toy_rows()
    for given, trained_on in ((rows, "cuda"), (rows, "cuda:1"), (rows.to("cuda:1"), "cuda:0"), (rows.to("cuda"), "cpu")):
        dictionary = train(given, device=trained_on, **SMALL)
        assert dictionary.encode(given).device == given.device
        assert dictionary(given).device == dictionary.W_dec.device == given.device
    of_batches = train(iter([rows[:40]] * 60), device="cuda", **SMALL)
    assert of_batches.W_enc.device.type == "cpu"
    with pytest.raises(ConfigError, match="activations on cuda:0 given to a dictionary on cpu"):
        of_batches.encode(rows.to("cuda"))


def test_devices_that_are_not_there_are_refused(gpu):
    with pytest.raises(ConfigError, match=r"'cuda:7' .* there are cuda:0 \(pretended\), cuda:1 \(pretended\)"):
        train(toy_rows(), device="cuda:7", **SMALL)


def test_what_has_no_room_is_refused_before_any_work(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "free_bytes", 2**20)
    with pytest.raises(ConfigError, match=r"needs 0\.01 GB on cuda, and 0\.00 of its 0\.00 GB are free"):
        train(toy_rows(), device="cuda", **{**SMALL, "n_features": 8000})


class Counting(Watcher):
    """Notes how often the host has waited for the device after each step."""

    def __init__(self, gpu):
        self.told = []
        super().__init__(lambda n: self.told.append(len(gpu.asked)))


def test_the_device_is_asked_where_a_record_is_due(gpu):
    """Plain torch asks at each step whether all is finite, three times or so; nothing else does, with `target_l0` either."""
    config = toy_config(target_l0=3.0, resample_at=(), n_steps=24, log_every=8, engine="dense")
    watcher = Counting(gpu)
    fit(toy_rows(), [config], device="cuda", observers=[[watcher]])
    asked = [b - a for a, b in zip(watcher.told, watcher.told[1:], strict=False)]
    quiet = [n for step, n in enumerate(asked, start=2) if step % 8]
    assert set(quiet) == {1}, "the finite of DenseEngine.step"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_store_is_copied_in_16_bits_from_page_locked_memory_on_a_stream_of_its_own(tmp_path, dtype, gpu):
    store, _ = store_of(tmp_path / "store", dtype)
    gpu.uploads.clear()
    feed = Feed(store, 10, 0, device=torch.device("cuda"))
    here = Feed(store, 10, 0)
    for _ in range(7):
        batch = feed.next()
        assert isinstance(batch, Pretended)
        assert torch.equal(batch.float().cpu(), here.next())
    assert len(gpu.uploads) >= 7
    assert set(gpu.uploads) == {(getattr(torch, dtype), True, True)}
    assert feed.home.type == "cpu"


def test_an_error_of_the_rows_is_raised_at_its_own_batch(gpu):
    class Failing(TensorRows):
        def batches(self, n_rows, *, seed=0, start=0):
            for i, batch in enumerate(super().batches(n_rows, seed=seed, start=start)):
                if i == 3:
                    raise OSError("the disk is gone")
                yield batch

    feed = Feed(Failing(toy_rows()), 40, 0, device=torch.device("cuda"))
    for _ in range(3):
        feed.next()
    with pytest.raises(OSError, match="the disk is gone"):
        feed.next()


def test_new_memory_is_not_filled_with_nan(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)  # as torch has it
    watcher = Watcher(lambda n: seen.append(torch.utils.deterministic.fill_uninitialized_memory))
    fit(toy_rows(), [toy_config(n_steps=2, engine="dense")], device="cpu", observers=[[watcher]])
    assert seen == [False, False]
    assert torch.utils.deterministic.fill_uninitialized_memory
