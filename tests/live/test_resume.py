"""Training on a live feed, killed and started again: the bits of an undisturbed run. Checkpoints of other rows are refused."""

import os
import signal

import pytest
import torch

from sae import artefact
from sae.errors import ConfigError
from sae.training.fit import fit
from tests.support.live import N_VOCAB, Prefixes, live_rows
from tests.support.stores import make_tokens
from tests.support.toy_training import DEAD, Watcher, assert_same_bits, toy_config

pytestmark = pytest.mark.alone
CONFIGS = [toy_config(**DEAD), toy_config(target_l0=3.0, seed=1)]
"""Sixty steps of 40 rows: twelve epochs of 200 rows, with resamplings, which read rows in an order of their own."""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """A pool of threads does not survive a fork."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(artefact, "sync", lambda path: None)  # guards against power cuts, not kills
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tokens(tmp_path):
    return make_tokens(tmp_path / "tokens", n_vocab=N_VOCAB)


def life(tokens, folder, n_steps):
    """A process that trains and kills itself after `n_steps` steps; the status that it ended with."""

    def at(n):
        if n == n_steps:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            fit(live_rows(tokens), CONFIGS, checkpoints=folder, checkpoint_seconds=0.0, observers=[[], [Watcher(at)]])
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def test_killed_and_started_again(tokens, tmp_path):
    """Three times: in the first epoch, at its end, and in the middle of a later one, between resamplings."""
    for n_steps in (3, 2, 30):  # before this process has a feed of its own, whose thread a fork would copy at work
        assert os.WIFSIGNALED(life(tokens, tmp_path / "checkpoints", n_steps))
    straight = fit(live_rows(tokens), CONFIGS)
    assert straight[0].dictionary.run.facts["epochs"] == 12.0
    resumed = fit(live_rows(tokens), CONFIGS, checkpoints=tmp_path / "checkpoints", observers=[[], [Watcher(lambda n: None)]])
    for one, other in zip(resumed, straight, strict=True):
        assert_same_bits(one, other)


def test_checkpoints_of_other_rows_are_refused(tokens, tmp_path):
    """Of another transformer, other tokens, another plan, or another order, also where the first batch is the same."""
    config = [toy_config(n_steps=3)]
    fit(live_rows(tokens), config, checkpoints=tmp_path / "checkpoints")
    others = [
        live_rows(tokens, Prefixes(seed=1)),
        live_rows(make_tokens(tmp_path / "other", n_vocab=N_VOCAB, seed=1)),
        live_rows(tokens, positions_per_context=4),
        live_rows(tokens, n_rows=201),
        live_rows(tokens, seed=1),
        live_rows(tokens, dtype="bfloat16"),
        live_rows(tokens, buffer_rows=170),
    ]
    for other in others:
        with pytest.raises(ConfigError, match=r"are of another run: (feed.)?\w+ was .* and is"):
            fit(other, config, checkpoints=tmp_path / "checkpoints")
    fit(live_rows(tokens), config, checkpoints=tmp_path / "checkpoints")
