"""Runs that are cut off go on and end with the same bits: stopped, interrupted, refused a batch, or finished already."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from itertools import islice

import pytest
import torch
from safetensors.torch import load_file

from sae.errors import ConfigError, DivergenceError, NumericsError
from sae.kernels import choice_of_screen
from sae.kernels.choice_of_screen import ScreenChoice
from sae.training import fit as fit_module
from sae.training.data import TensorRows, resampling_seed
from sae.training.fit import fit, train
from sae.training.trainer import Trainer
from tests.import_graph import ROOT
from tests.support.toy_training import DEAD, Watcher, assert_same_bits, toy_config, toy_rows

CONFIGS = [toy_config(**DEAD), toy_config(recipe="april2024", n_steps=50), toy_config(target_l0=3.0, n_features=30)]


@pytest.fixture(scope="module")
def undisturbed():
    return fit(toy_rows(), CONFIGS)


def stopping(at, signum=signal.SIGTERM):
    """Observers of `CONFIGS`, of which the first sends this process a signal after `at` steps."""
    watchers = [Watcher(lambda n: None) for _ in CONFIGS]
    watchers[0] = Watcher(lambda n: signal.raise_signal(signum) if n == at else None)
    return [[watcher] for watcher in watchers]


@pytest.mark.parametrize("at", [1, 18, 41])
def test_stopped_and_resumed(tmp_path, undisturbed, at):
    """Before, at and after resamplings, and where the second dictionary's run is over."""
    with pytest.raises(SystemExit) as stop:
        fit(toy_rows(), CONFIGS, checkpoints=tmp_path, observers=stopping(at))
    assert stop.value.code == 143
    assert json.loads((tmp_path / f"step-{at:010d}.json").read_text())["step"] == at
    for one, straight in zip(fit(toy_rows(), CONFIGS, checkpoints=tmp_path, observers=stopping(None)), undisturbed, strict=True):
        assert_same_bits(one, straight)


def test_stopped_and_resumed_with_other_screens(tmp_path, monkeypatch):
    """A trial is held again after resuming, and the clock may say the opposite then: no bit differs, nor from a run without."""
    config = toy_config(l1=20.0, n_steps=150)
    straight = fit(toy_rows(), [config])
    monkeypatch.setattr(choice_of_screen, "WORTH_FROM", 0)
    took = ScreenChoice.took
    chosen = []

    def by(sign):
        def says(choice, screen, seconds):
            took(choice, screen, 1.0 + sign * choice.kinds.index(type(screen)) / 10)
            if choice.chosen:
                chosen.append(choice.chosen)

        monkeypatch.setattr(ScreenChoice, "took", says)

    by(1)
    with pytest.raises(SystemExit):
        fit(toy_rows(), [config], checkpoints=tmp_path, observers=stopping(100)[:1])
    first = chosen[-1]
    by(-1)
    (resumed,) = fit(toy_rows(), [config], checkpoints=tmp_path)
    assert first is not chosen[-1]
    assert_same_bits(resumed, straight[0])


def test_stopped_again_and_again(tmp_path, undisturbed):
    for _ in range(9):
        try:
            trained = fit(toy_rows(), CONFIGS, checkpoints=tmp_path, observers=stopping(19))
            break
        except SystemExit:
            continue
    for one, straight in zip(trained, undisturbed, strict=True):
        assert_same_bits(one, straight)


def test_interrupted(tmp_path, undisturbed):
    """Control-C: a checkpoint, then what Python makes of it; afterwards Control-C is Python's again."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        fit(toy_rows(), CONFIGS, checkpoints=tmp_path, observers=stopping(31, signal.SIGINT))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert_same_bits(fit(toy_rows(), CONFIGS, checkpoints=tmp_path, observers=stopping(None))[0], undisturbed[0])


def test_stopped_without_checkpoints(capsys):
    """Ctrl-C gives back what there is, marked; SIGTERM ends the process, and who catches that has it too."""
    so_far = fit(toy_rows(), CONFIGS, observers=stopping(41, signal.SIGINT))
    with pytest.raises(SystemExit) as stop:
        fit(toy_rows(), CONFIGS, observers=stopping(41))
    assert stop.value.code == 143
    for trained in (so_far, stop.value.trained):
        assert trained[0].dictionary.run.facts["warnings"][0].startswith("stopped after 41 of 60 steps: this is the dictionary")
        assert torch.isfinite(trained[0].dictionary.encode(toy_rows())).all()
    assert_same_bits(so_far[0], stop.value.trained[0])
    assert "configs[0]: warning: stopped after 41 of 60 steps" in capsys.readouterr().err


def test_stopped_before_the_first_record():
    """Then nothing is known of it but that."""
    stopped = fit(toy_rows(), [toy_config(target_l0=3.0)], observers=[[Watcher(stop_after(2, signal.SIGINT))]])[0].dictionary
    assert stopped.run.facts["warnings"] == ["stopped after 2 of 60 steps: this is the dictionary as it was then"]


class StopsAside(TensorRows):
    """Asks this process to stop while resampling reads its batches."""

    def batches(self, n_rows, *, seed=0, start=0):
        for i, batch in enumerate(super().batches(n_rows, seed=seed, start=start)):
            if seed == resampling_seed(0) and i == 1:
                signal.raise_signal(signal.SIGTERM)
            yield batch


def test_stopped_in_the_middle_of_a_resampling(tmp_path, undisturbed):
    """Nothing is resampled then; the run that goes on does it whole."""
    with pytest.raises(SystemExit):
        fit(StopsAside(toy_rows()), CONFIGS, checkpoints=tmp_path)
    step = max(int(path.stem.removeprefix("step-")) for path in tmp_path.glob("*.json"))
    assert step in CONFIGS[0].settled().schedule(60).resample_steps
    record = json.loads((tmp_path / f"step-{step:010d}.json").read_text())
    history = record["numbers"]["trainers"][0]["observers"]["History"]
    assert not [row for row in history if "event" in row and row["step"] == step]
    for one, straight in zip(fit(toy_rows(), CONFIGS, checkpoints=tmp_path), undisturbed, strict=True):
        assert_same_bits(one, straight)


def test_an_iterator_is_resumed_from_its_beginning(tmp_path):
    batches = list(islice(TensorRows(toy_rows()).batches(40), 60))
    straight = fit(iter(batches), CONFIGS)
    with pytest.raises(SystemExit):
        fit(iter(batches), CONFIGS, checkpoints=tmp_path, observers=stopping(33))
    for one, expected in zip(fit(iter(batches), CONFIGS, checkpoints=tmp_path, observers=stopping(None)), straight, strict=True):
        assert_same_bits(one, expected)


def test_a_finished_run_comes_back_at_once(tmp_path, undisturbed, monkeypatch):
    fit(toy_rows(), CONFIGS, checkpoints=tmp_path)

    def no_step(*_):
        raise AssertionError("a step was taken")

    monkeypatch.setattr(Trainer, "step", no_step)
    for one, straight in zip(fit(toy_rows(), CONFIGS, checkpoints=tmp_path), undisturbed, strict=True):
        assert_same_bits(one, straight)


def test_checkpoints_of_other_configs_or_data_are_refused_or_left(tmp_path, undisturbed, capsys):
    fit(toy_rows(), [toy_config(l1=3.0)], checkpoints=tmp_path, data="abc")
    for configs, data in (([toy_config(l1=4.0)], "abc"), ([toy_config(l1=3.0)], "xyz"), (CONFIGS, "abc")):
        with pytest.raises(ConfigError, match="are of another run"):
            fit(toy_rows(), configs, checkpoints=tmp_path, data=data)
    left = {path.name for path in tmp_path.glob("step-*")}
    fresh = fit(toy_rows(), CONFIGS, checkpoints=tmp_path, data="abc", leave_foreign=True)
    assert_same_bits(fresh[0], undisturbed[0])
    assert "starting afresh" in capsys.readouterr().err
    assert {path.name for path in tmp_path.glob("step-*")} > left


class Spoilt(TensorRows):
    """The rows of `toy_rows`, but a number of batch `k` of training is not finite; resampling's batches are whole."""

    mean_square_norm = 8.0

    def __init__(self, k=None, value=float("nan")):
        super().__init__(toy_rows())
        self.k, self.value = k, value

    def batches(self, n_rows, *, seed=0, start=0):
        for i, batch in enumerate(super().batches(n_rows, seed=seed, start=start), start):
            if i == self.k and seed == 0:
                batch[3, 5] = self.value
            yield batch


def stop_after(k, signum=signal.SIGTERM):
    return lambda n: signal.raise_signal(signum) if n == k else None


@pytest.mark.parametrize(("k", "value"), [(9, float("nan")), (42, float("-inf"))])
def test_a_refused_batch_is_kept_beside_the_last_good_state(tmp_path, k, value):
    """Also where features were resampled right before it (step 42): they are not resampled again."""
    config = toy_config(**DEAD)
    with pytest.raises(NumericsError, match=f"at step {k}; 1 of its 40 rows hold NaN or infinity") as error:
        fit(Spoilt(k, value), [config], checkpoints=tmp_path)
    kept = tmp_path / f"refused-batch-{k}.safetensors"
    assert str(kept) in str(error.value)
    bad = next(Spoilt(k, value).batches(40, start=k))
    torch.testing.assert_close(load_file(kept)["batch"], bad, equal_nan=True, rtol=0, atol=0)
    saved = load_file(tmp_path / f"step-{k:010d}.safetensors")
    if k == 9:  # else the one has been resampled, and the other not yet
        with pytest.raises(SystemExit):
            fit(Spoilt(), [config], checkpoints=tmp_path / "straight", observers=[[Watcher(stop_after(k))]])
        good = load_file(tmp_path / "straight" / f"step-{k:010d}.safetensors")
        assert all(torch.equal(saved[name], value) for name, value in good.items())
    resumed, straight = fit(Spoilt(), [config], checkpoints=tmp_path)[0], fit(Spoilt(), [config])[0]
    assert_same_bits(resumed, straight)
    assert [row["n_resampled"] > 0 for row in straight.history if row["step"] == 42] == [True]


@pytest.mark.parametrize("late", [False, True])
def test_one_of_many_that_diverges_leaves_the_others_whole(tmp_path, undisturbed, capsys, monkeypatch, late):
    """The second is refused step 42; the others end as they would, and so does it, when the cause is gone."""

    def spoil(trainers):
        step = trainers[1].step
        trainers[1].step = lambda x: step(x * float("inf") if trainers[1].n_done == 42 else x)
        return trainers

    told = r"1 of 3 dictionaries failed, the others are whole\. configs\[1\]: .*at step 42.*the last good state beside it"
    make = fit_module._trainers
    if late:  # as on a GPU: what is noticed at the next record is not the last good state
        monkeypatch.setattr(Trainer, "notices_late", True)
        told = told.replace("42", "49")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "_trainers", lambda *given: spoil(make(*given)))
        for _ in range(2):  # gone on with, it tries again, and the others come back at once
            with pytest.raises(DivergenceError, match=told) as error:
                fit(toy_rows(), CONFIGS, checkpoints=tmp_path)
            first, failed, third = error.value.trained
            assert failed is None
            assert_same_bits(first, undisturbed[0])
            assert_same_bits(third, undisturbed[2])
    assert (tmp_path / f"refused-batch-{49 if late else 42}.safetensors").exists()
    assert "configs[1] stops" in capsys.readouterr().err
    for one, expected in zip(fit(toy_rows(), CONFIGS, checkpoints=tmp_path), undisturbed, strict=True):
        assert_same_bits(one, expected)


CHILD = """
import sys, time
from pathlib import Path
from sae.training.fit import fit
from tests.support.toy_training import DEAD, Watcher, toy_config, toy_rows
folder = Path(sys.argv[1])
def pace(n):
    if n == 80:
        print("at 80", flush=True)
        while not (folder / "asked").exists():
            time.sleep(0.01)
fit(toy_rows(), [toy_config(**DEAD, n_steps=200)], checkpoints=folder, observers=[[Watcher(pace)]])
"""


def test_sigterm_from_outside(tmp_path):
    """Exit 143 with a checkpoint of the step that it was in, or the next one; a run in another process ends with the bits of one
    that nothing disturbed."""
    config = toy_config(**DEAD, n_steps=200)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as child:
        assert child.stdout.readline() == "at 80\n"
        child.send_signal(signal.SIGTERM)
        (tmp_path / "asked").touch()
        assert child.wait() == 143
    assert max(int(path.stem.removeprefix("step-")) for path in tmp_path.glob("*.json")) in (80, 81)
    resumed = fit(toy_rows(), [config], checkpoints=tmp_path, observers=[[Watcher(lambda n: None)]])
    assert_same_bits(resumed[0], fit(toy_rows(), [config])[0])


def test_train_resumes_too(tmp_path):
    how = {"n_features": 24, "steps": 30, "batch_size": 40, "resample_inputs": 80}
    with pytest.raises(SystemExit):
        train(toy_rows(), **how, checkpoints=tmp_path, observers=[Watcher(stop_after(11))])
    resumed = train(toy_rows(), **how, checkpoints=tmp_path, observers=[Watcher(lambda n: None)])
    assert torch.equal(resumed.W_enc, train(toy_rows(), **how).W_enc)


def test_checkpoints_of_other_rows_are_refused(tmp_path):
    config = toy_config(n_steps=4)
    fit(toy_rows(), [config], checkpoints=tmp_path)
    with pytest.raises(ConfigError, match=r"are of another run: .*rows was"):
        fit(toy_rows() * 2, [config], checkpoints=tmp_path)
    with pytest.raises(ConfigError, match=r"are of another run: .*rows was"):
        fit(toy_rows(d_mlp=5), [config], checkpoints=tmp_path)


def test_strange_files_beside_checkpoints_are_left_alone(tmp_path):
    (tmp_path / "step-abc.json").write_text("{}")
    (tmp_path / ".tmpfolder").mkdir()
    (tmp_path / "step-0000000020.json").mkdir()
    fit(toy_rows(), [toy_config(n_steps=4)], checkpoints=tmp_path)
    assert (tmp_path / "step-abc.json").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be a folder"):
        fit(toy_rows(), [toy_config(n_steps=4)], checkpoints=tmp_path / "file")


def test_an_iterator_that_ends_early_leaves_a_checkpoint(tmp_path):
    """Of the moment that it ended, from which a longer one goes on to the same bits; also where it fails of itself."""
    batches = list(islice(TensorRows(toy_rows()).batches(40), 60))
    config = toy_config(**DEAD)

    def failing():
        yield from batches[:37]
        raise OSError("the disk is gone")

    for folder, early, kind in (("ended", iter(batches[:37]), ConfigError), ("failed", failing(), OSError)):
        with pytest.raises(kind, match="saved in") as error:
            fit(early, [config], checkpoints=tmp_path / folder)
        assert f"all steps before are saved in {tmp_path / folder}" in error.value.__notes__[0]
        assert (tmp_path / folder / "step-0000000037.json").exists()
        with pytest.raises(ConfigError, match="ended after 10 batches"):
            fit(iter(batches[:10]), [config], checkpoints=tmp_path / folder)
        assert_same_bits(fit(iter(batches), [config], checkpoints=tmp_path / folder)[0], fit(iter(batches), [config])[0])


def test_rows_that_differ_beyond_the_first_batch_are_others(tmp_path):
    """A finished run's dictionary is not that of rows of which one has changed since."""
    rows = toy_rows()
    first = next(TensorRows(rows).batches(40))
    i = next(i for i, row in enumerate(rows) if not (first == row).all(1).any())
    fit(rows, [toy_config(n_steps=3)], checkpoints=tmp_path)
    fit(rows.clone(), [toy_config(n_steps=3)], checkpoints=tmp_path)
    rows[i] += 1
    with pytest.raises(ConfigError, match=r"are of another run: feed\.crc32c was"):
        fit(rows, [toy_config(n_steps=3)], checkpoints=tmp_path)


SAME = [
    {"log_every": 7},
    {"ultralow": 1e-3},
    {"density_window": 0.3},
    {"learning_rate": None, "most_learning_rate": 1e-2, "recipe": "monosemanticity"},
    {"recipe": "april2024"},
]


@pytest.mark.parametrize("changes", SAME, ids=lambda changes: next(iter(changes)))
def test_what_does_not_change_the_dictionary_keeps_the_checkpoint(tmp_path, changes, monkeypatch):
    """How often and what is recorded; and the same said in other words, such as a recipe's own value, or another recipe with all
    fields of the first."""
    config = toy_config(**DEAD, learning_rate=1e-2)
    recipe = {name: getattr(config.settled(), name) for name in ("tied_bias", "weighted_l1", "l1_warmup", "start", "centre")}
    others = ("decay", "unit_norm", "max_gradient_norm", "decoder_norm", "betas", "warmup", "resample_loss")
    recipe |= {name: getattr(config.settled(), name) for name in others}
    if "recipe" in changes:
        recipe["max_gradient_norm"] = 0.0
        config = dataclasses.replace(config, max_gradient_norm=0.0)
    other = dataclasses.replace(config, **{**(recipe if "recipe" in changes else {}), **changes})
    if changes.get("most_learning_rate"):
        other = dataclasses.replace(other, learning_rate=1e-2)
    straight = fit(toy_rows(), [config])[0].dictionary
    with pytest.raises(SystemExit):
        fit(toy_rows(), [config], checkpoints=tmp_path, observers=[[Watcher(stop_after(31))]])
    seen = []
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, batch: (seen.append(self.n_done), step(self, batch))[1])
    resumed = fit(toy_rows(), [other], checkpoints=tmp_path)[0].dictionary
    assert seen[0] == 31
    assert all(torch.equal(value, straight.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_what_changes_the_dictionary_is_another_run_and_the_first_can_be_gone_on_with(tmp_path, undisturbed, capsys):
    def stopped(config, at):
        with pytest.raises(SystemExit):
            fit(toy_rows(), [config], checkpoints=tmp_path, observers=[[Watcher(stop_after(at))]], leave_foreign=True)

    stopped(CONFIGS[0], 31)
    stopped(dataclasses.replace(CONFIGS[0], l1=19.0), 12)
    assert "configs[0].l1 was 20.0 and is 19.0; starting afresh" in capsys.readouterr().err
    first = fit(toy_rows(), CONFIGS[:1], checkpoints=tmp_path, observers=[[Watcher(lambda n: None)]], leave_foreign=True)[0]
    assert_same_bits(first, undisturbed[0])
    assert "starting afresh" not in capsys.readouterr().err
