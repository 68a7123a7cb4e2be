"""Training killed with SIGKILL at random instants, and started again until it is done: the same bits as if nothing had been.

Every life is a fork of this process, which has torch imported and the step compiled: it starts in milliseconds, and a pool of
threads does not survive a fork, so all of it is on one thread."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sae import artefact
from sae.errors import LockedError
from sae.tensors import save_tensors
from sae.training.fit import fit
from sae.training.trainer import Trainer
from tests.support.toy_training import DEAD, toy_config, toy_rows

CONFIGS = [toy_config(**{**DEAD, "resample_window": 0.2}), toy_config(recipe="april2024", n_steps=50), toy_config(target_l0=3.0)]
pytestmark = pytest.mark.alone
LIVES = 60
"""Kills of one training at most; then it is left to finish."""


def train_to(folder: Path) -> None:
    """A checkpoint after every step; at the end `result.safetensors` and `result.txt` hold all that training leaves."""
    trained = fit(toy_rows(), CONFIGS, checkpoints=folder / "checkpoints", checkpoint_seconds=0.0)
    tensors = {}
    for i, one in enumerate(trained):
        tensors |= {f"{i}.{name}": value for name, value in one.dictionary.state_dict().items()}
        tensors |= {f"{i}.firings": one.firings, f"{i}.rows": one.firing_rows}
    save_tensors(tensors, folder / "result.safetensors")
    (folder / "result.txt").write_text(repr([one.history for one in trained]))


def life(folder: Path, kill_after: float | None) -> int:
    """One process that trains, killed after so many seconds; the status that it ended with."""
    child = os.fork()
    if child == 0:
        try:
            train_to(folder)
            os._exit(0)
        except LockedError:
            os._exit(LockedError.exit_code)
        except BaseException as error:
            (folder / "error.txt").write_text(repr(error))
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def result(folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    return load_file(folder / "result.safetensors"), (folder / "result.txt").read_text()


def same(a: Path, b: Path) -> bool:
    (tensors, history), (others, other_history) = result(a), result(b)
    return history == other_history and all(torch.equal(value, others[name]) for name, value in tensors.items())


def killed(folder: Path, chance: random.Random, seconds: float, most: int = LIVES) -> int:
    """Train in `folder`, killed again and again within the first `seconds`, at most `most` times; the number of kills."""
    n_kills = 0
    while True:
        status = life(folder, chance.uniform(0, seconds) if n_kills < most else None)
        if os.WIFSIGNALED(status):
            n_kills += 1
            continue
        if os.waitstatus_to_exitcode(status) == LockedError.exit_code:
            time.sleep(0.05)  # the git that a killed life had just forked holds its lock for as long as it has not become git
            continue
        told = (folder / "error.txt").read_text() if status else ""
        assert status == 0, f"training ended with {status}: {told}"
        return n_kills


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a training that nothing disturbed, and the seconds that it took."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    patch = pytest.MonkeyPatch()
    patch.setattr(artefact, "sync", lambda path: None)  # guards against power cuts, not kills, and is most of the time here
    folder = tmp_path_factory.mktemp("undisturbed")
    train_to(tmp_path_factory.mktemp("compiles"))
    started = time.monotonic()
    assert life(folder, None) == 0
    yield folder, time.monotonic() - started
    torch.set_num_threads(before)
    patch.undo()


def harass(tmp_path: Path, undisturbed: tuple[Path, float], n_wanted: int, most: int, seed: int = 0) -> int | None:
    """Trainings until there were `n_wanted` kills, or one ended otherwise than the undisturbed one: after how many then."""
    straight, seconds = undisturbed
    chance, n_kills, n_runs = random.Random(seed), 0, 0
    while n_kills < n_wanted:
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        n_kills += killed(folder, chance, seconds / 2, min(most, n_wanted - n_kills))
        n_runs += 1
        if not same(folder, straight):
            return n_kills
        left = [path.name for path in (folder / "checkpoints").iterdir()]
        assert len(left) == 5, f"two checkpoints of two files and the lock, not {left}"
    print(f"\n{n_kills} kills in {n_runs} trainings, each with the bits of the undisturbed one")
    return None


def test_ten_kills(tmp_path, undisturbed):
    assert harass(tmp_path, undisturbed, 10, 20) is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_thousand_kills(tmp_path, undisturbed, seed):
    assert harass(tmp_path, undisturbed, 250, LIVES, seed) is None


def forgets_window(restore):
    """Counts of the window that resampling asks are not taken over."""

    def restored(self, tensors, numbers):
        nothing = torch.zeros_like(tensors["window.n_fired"])
        restore(self, {**tensors, "window.n_fired": nothing}, {**numbers, "window_rows": 0})

    return restored


def forgets_updates(restore):
    """Adam's bias correction starts afresh."""
    return lambda self, tensors, numbers: restore(self, tensors, {**numbers, "n_updates": 0})


def forgets_control(restore):
    """The controller's smoothed L0 starts afresh."""

    def restored(self, tensors, numbers):
        controller = numbers["controller"] and [numbers["controller"][0], 0.0]
        restore(self, tensors, {**numbers, "controller": controller})

    return restored


@pytest.mark.parametrize("broken", [None, forgets_window, forgets_updates, forgets_control])
def test_the_harness_notices_what_is_forgotten(tmp_path, undisturbed, monkeypatch, broken):
    """Killed every few steps, a training that restores all but one thing ends with other bits; one that restores all
    does not."""
    straight, _ = undisturbed
    if broken is not None:
        monkeypatch.setattr(Trainer, "restore", broken(Trainer.restore))
    step = Trainer.step
    for at in range(5, 60, 5 if broken is None else 18):

        def step_or_die(self, batch, at=at):
            if self.n_done == at and not (tmp_path / f"died-{at}").exists():
                (tmp_path / f"died-{at}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            step(self, batch)

        monkeypatch.setattr(Trainer, "step", step_or_die)
        assert os.WIFSIGNALED(life(tmp_path, None))
    monkeypatch.setattr(Trainer, "step", step)
    assert life(tmp_path, None) == 0
    assert same(tmp_path, straight) == (broken is None)
