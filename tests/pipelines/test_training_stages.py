"""The stages `train` and `sweep` on a small store: what they commit, and what they say where one dictionary diverges."""

import functools
import json

import numpy as np
import pytest

from pipelines import sweep, train
from pipelines.common import Stage
from sae.dictionary.disk import read_dictionary
from sae.errors import DivergenceError
from sae.training.trainer import Trainer
from tests.support.activations import write_store
from tests.support.toy_training import toy_rows

TRAIN = {"n_features": 24, "batch_size": 40, "n_steps": 30, "log_every": 10, "l1": 3.0}


def params(**dictionaries):
    return {"run": {"device": "cpu"}, "wandb": {"mode": "disabled"}, "train": TRAIN, "sweep": {"dictionaries": dictionaries}}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a store of toy rows."""
    monkeypatch.chdir(tmp_path)
    values = toy_rows().numpy().astype(np.float16)
    write_store(tmp_path / "data/A/activations", values, np.zeros((len(values), 2), np.uint32))
    return tmp_path


def test_train_commits_its_dictionary(project):
    train.main(Stage("train", params()))
    dictionary = read_dictionary("data/A/1/dictionary")
    assert dictionary.run.facts["epochs"] == 3.0
    assert not (project / "data/A/1/checkpoints").exists()


class StoppedError(Exception):
    """A stand-in for a kill."""


def stopped_at(project, monkeypatch, at, **changes):
    """Stage `train`, with a checkpoint at every step, ended after step `at`; the first step that it took."""
    step, seen = Trainer.step, []

    def step_or_stop(self, batch):
        if self.n_done == at:
            raise StoppedError
        seen.append(self.n_done)
        step(self, batch)

    given = params()
    given["train"] = {**TRAIN, **changes}
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step_or_stop)
        patch.setattr(train, "fit", functools.partial(train.fit, checkpoint_seconds=0.0))
        if at is None:
            train.main(Stage("train", given))
        else:
            with pytest.raises(StoppedError):
                train.main(Stage("train", given))
    return seen[0]


def test_what_is_recorded_may_change_and_what_decides_leaves_the_checkpoint(project, monkeypatch, capsys):
    """A change of log_every goes on. Another lambda starts afresh beside the checkpoint, which is there until that run is done:
    with the first lambda again, the first run goes on."""
    assert stopped_at(project, monkeypatch, 20) == 0
    assert stopped_at(project, monkeypatch, 25, log_every=7) == 20
    assert "afresh" not in capsys.readouterr().err
    assert stopped_at(project, monkeypatch, 5, l1=4.0) == 0
    assert "configs[0].l1 was 3.0 and is 4.0; starting afresh, and they stay there" in capsys.readouterr().err
    assert stopped_at(project, monkeypatch, 27) == 25
    assert stopped_at(project, monkeypatch, None, l1=4.0) == 5
    assert not (project / "data/A/1/checkpoints").exists()


def test_a_sweep_saves_those_that_are_whole_and_ends_with_an_error(project):
    """Run again it is the same, at once; without the one that diverges, all is as it was."""
    stage = Stage("sweep", params(good={"seed": 1}, wild={"learning_rate": 1e30}, other={"l1": 2.0}))
    saved = []
    for _ in range(2):
        with pytest.raises(DivergenceError, match=r"1 of 3 .* A/sweep/wild: .*at step \d+.*refused-batch") as error:
            sweep.main(stage)
        assert error.value.exit_code == 70
        assert not (project / "data/A/sweep/wild").exists()
        saved.append([read_dictionary(f"data/A/sweep/{name}/dictionary").W_enc.sum().item() for name in ("good", "other")])
    sweep.main(Stage("sweep", params(good={"seed": 1}, other={"l1": 2.0})))
    saved.append([read_dictionary(f"data/A/sweep/{name}/dictionary").W_enc.sum().item() for name in ("good", "other")])
    assert saved[0] == saved[1] == saved[2]
    assert set(json.loads((project / "reports/sweep/sweep.json").read_text())) == {"A/sweep/good", "A/sweep/other"}
