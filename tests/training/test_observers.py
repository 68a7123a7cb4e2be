"""The local log is whole and can be gone on with; the history knows no clock. W&B: test_mirror.py."""

import json
import sys
import types

import numpy as np
import pytest
import torch

from sae import progress
from sae.config import build
from sae.errors import ConfigError, DiskError, in_one_line
from sae.training.checkpoint import Checkpoints
from sae.training.fit import fit, train
from sae.training.observers import History, JsonLog, Progress, WandbLog, wants_bar
from sae.training.wandb_config import WandbConfig, as_environment_says
from tests.support.toy_training import DEAD, assert_same_bits, toy_config, toy_rows

RECORDS = [
    (10, {"loss": 3.0, "log10_density": (np.array([1, 2]), np.array([0.0, 1.0, 2.0])), "seconds": 1.5}),
    (20, {"loss": 2.5}),
]


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_history_keeps_no_clock():
    history = History()
    for step, values in RECORDS:
        history.record(step, values)
    history.event(15, "resampling", {"n_resampled": 4})
    assert history.rows == [
        {"step": 10, "loss": 3.0},
        {"step": 20, "loss": 2.5},
        {"step": 15, "event": "resampling", "n_resampled": 4},
    ]


def test_history_goes_on_from_rows():
    whole, first = History(), History()
    whole.record(*RECORDS[0])
    first.record(*RECORDS[0])
    second = History()
    second.start(json.loads(json.dumps(first.state())))
    for history in (whole, second):
        history.record(*RECORDS[1])
    assert second.rows == whole.rows
    assert len(first.rows) == 1


def test_json_log_is_there_line_by_line(tmp_path):
    log = JsonLog(tmp_path / "logs" / "run.jsonl")
    log.start(None)
    log.record(*RECORDS[0])
    row = json.loads((tmp_path / "logs" / "run.jsonl").read_text())
    assert row["seconds"] == 1.5
    assert row["log10_density"][0] == [1, 2]
    log.close()


def test_numbers_of_numpy_and_torch_stay_numbers(tmp_path):
    log = JsonLog(tmp_path / "run.jsonl")
    log.start(None)
    log.record(1, {"a": np.float32(0.5), "b": torch.tensor(2), "c": torch.tensor([1.0, 2.0]), "d": np.int64(3)})
    log.close()
    assert json.loads((tmp_path / "run.jsonl").read_text()) == {"step": 1, "a": 0.5, "b": 2, "c": [1.0, 2.0], "d": 3}


def test_a_fresh_log_forgets_the_last_run(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text('{"step": 10}\n')
    log = JsonLog(path)
    log.start(None)
    log.record(5, {})
    log.close()
    assert steps(path) == [5]


@pytest.mark.parametrize("torn", ["", '{"step": 4', '{"step": 40, "loss": 1.2', "\x00\x00\x00", '{"step": 20}'])
def test_a_resumed_log_keeps_what_is_whole_and_not_later(tmp_path, torn):
    path = tmp_path / "run.jsonl"
    with open(path, "w") as file:
        for step in (10, 20, 20, 30):
            file.write(json.dumps({"step": step, "loss": 1.0}) + "\n")
        file.write(torn)
    log = JsonLog(path)
    log.start(3)
    assert steps(path) == [10, 20, 20]
    assert log.state() == 3
    log.record(30, {"loss": 0.5})
    log.close()
    assert steps(path) == [10, 20, 20, 30]
    assert json.loads(path.read_text().splitlines()[-1])["loss"] == 0.5


def test_a_resumed_log_is_replaced_and_never_cut(tmp_path):
    """Whoever reads the old file at that moment, reads it to its end."""
    path = tmp_path / "run.jsonl"
    path.write_text('{"step": 10}\n{"step": 20}\n')
    with open(path, "rb", buffering=0) as reader:
        log = JsonLog(path)
        log.start(1)
        log.close()
        assert reader.read() == b'{"step": 10}\n{"step": 20}\n'
    assert steps(path) == [10]
    assert [file.name for file in tmp_path.iterdir()] == ["run.jsonl"]


def test_a_log_that_was_deleted_is_begun_again(tmp_path):
    log = JsonLog(tmp_path / "run.jsonl")
    log.start(20)
    log.close()
    assert steps(tmp_path / "run.jsonl") == []


@pytest.mark.parametrize("wrong", [{"mode": "sometimes"}, {"timeout": 0}])
def test_wrong_settings(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build(WandbConfig, wrong, "wandb")


def test_a_folder_that_cannot_be_made_is_told_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        WandbLog(WandbConfig(directory=str(tmp_path / "file" / "logs")), "A/1", {}, log=tmp_path / "run.jsonl")


def test_disabled_starts_nothing(tmp_path):
    log = WandbLog(WandbConfig(mode="disabled", directory=str(tmp_path)), "A/1", {}, log=tmp_path / "run.jsonl")
    log.start(None)
    log.record(*RECORDS[0])
    log.close()
    assert list(tmp_path.iterdir()) == []


class FullAfter:
    """A log's file on a disk that takes no more after `n` lines."""

    def __init__(self, file, n):
        self.file, self.left = file, n

    def write(self, data):
        if self.left == 0:
            return self.file.write(data[: len(data) // 2])
        self.left -= 1
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


def logged(path, n_lines=None, state=None):
    """A started log, on a disk that has room for so many lines."""
    log = JsonLog(path)
    log.start(state)
    if n_lines is not None:
        log._file = FullAfter(log._file, n_lines)
    return log


def test_a_full_disk_is_told_and_what_was_not_written_is_written_later(tmp_path):
    path = tmp_path / "run.jsonl"
    log = logged(path, 1)
    log.record(*RECORDS[1])
    with pytest.raises(DiskError, match=r"no space left while writing .*run.jsonl; free some and run again"):
        log.event(25, "resampling", {"n_resampled": 4})
    log.close()
    assert steps(path) == [20], "no half of a line is left"
    again = logged(path, state=json.loads(json.dumps(log.state())))
    assert steps(path) == [20, 25]
    assert again.state() == 2
    again.close()


def test_a_training_whose_log_has_no_room_is_saved_and_goes_on(tmp_path, monkeypatch):
    """One line says so, with a checkpoint of all steps; the run that goes on ends with the same bits and the same log."""
    config = toy_config(**DEAD)
    logs = [JsonLog(tmp_path / f"{name}.jsonl") for name in ("straight", "run", "run")]
    straight = fit(toy_rows(), [config], observers=[logs[:1]])[0]
    start = JsonLog.start

    def crowded(log, state):
        start(log, state)
        log._file = FullAfter(log._file, 3)

    saved = tmp_path / "checkpoints"
    with monkeypatch.context() as patch:
        patch.setattr(JsonLog, "start", crowded)
        with pytest.raises(DiskError) as error:
            fit(toy_rows(), [config], checkpoints=saved, observers=[logs[1:2]])
    assert f"all steps before are saved in {saved}: called again when that is mended, it goes on" in in_one_line(error.value)
    resumed = fit(toy_rows(), [config], checkpoints=saved, observers=[logs[2:]])[0]
    assert_same_bits(resumed, straight)
    for log in logs:
        log.close()
    assert steps(tmp_path / "run.jsonl") == steps(tmp_path / "straight.jsonl")


def test_where_no_checkpoint_can_be_written_either_that_is_told(tmp_path, monkeypatch):
    def refused(*_):
        raise DiskError("no space left while writing a checkpoint")

    class Crowded(JsonLog):
        def record(self, step, values):
            raise DiskError("no space left while writing the log")

    monkeypatch.setattr(Checkpoints, "save", refused)
    log = Crowded(tmp_path / "run.jsonl")
    with pytest.raises(DiskError, match="the log") as error:
        fit(toy_rows(), [toy_config()], checkpoints=tmp_path, observers=[[log]])
    log.close()
    assert "no checkpoint could be written either (no space left while writing a checkpoint)" in in_one_line(error.value)


@pytest.mark.parametrize(("n_done", "told"), [(5, "train: stopped at 5 of 10"), (10, "train: done in ")])
def test_the_bar_says_done_only_when_it_is(n_done, told, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    bar = Progress("train", 10)
    bar.start(None)
    bar.advance(n_done)
    bar.close()
    bar.close()
    last = capsys.readouterr().err.splitlines()[-1]
    assert told in last
    assert ("done" in last) == (n_done == 10)


@pytest.fixture
def notebook(monkeypatch):
    """What IPython's kernel looks like from within."""
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_REDRAWS", 0.0)


@pytest.mark.parametrize(("how", "shown"), [({}, True), ({"progress": False}, False), ({"progress": True}, True)])
def test_a_notebook_shows_progress(notebook, capsys, how, shown):
    train(toy_rows(), n_features=24, steps=20, batch_size=40, resample_inputs=80, **how)
    assert capsys.readouterr().err.count("\rtrain: done in ") == shown


def test_elsewhere_a_training_is_silent_unless_asked(capsys):
    train(toy_rows(), n_features=24, steps=20, batch_size=40, resample_inputs=80)
    assert capsys.readouterr().err == ""
    assert wants_bar(None, [[]]) is False


def test_an_observer_that_is_a_bar_is_enough(notebook):
    assert wants_bar(None, [[History()]]) is True
    assert wants_bar(None, [[History(), Progress("mine", 3)]]) is False


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ("offline", "sae", None, "logs")),
        ({"WANDB_MODE": "online"}, ("online", "sae", None, "logs")),
        ({"WANDB_MODE": "dryrun"}, ("offline", "sae", None, "logs")),
        ({"WANDB_MODE": "disabled", "WANDB_PROJECT": "p"}, ("disabled", "p", None, "logs")),
        ({"WANDB_DISABLED": "true"}, ("disabled", "sae", None, "logs")),
        ({"WANDB_ENTITY": "us", "WANDB_DIR": "elsewhere"}, ("offline", "sae", "us", "elsewhere")),
    ],
)
def test_wandb_s_own_variables_are_obeyed(monkeypatch, environment, expected):
    for name in ("MODE", "PROJECT", "ENTITY", "DIR", "DISABLED"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = as_environment_says(WandbConfig())
    assert (found.mode, found.project, found.entity, found.directory) == expected


def test_a_mode_that_is_none_is_told(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ConfigError, match="WANDB_MODE=sometimes: W&B's modes are online, offline and disabled"):
        as_environment_says(WandbConfig())


def test_the_place_of_a_wandb_run_that_goes_on_is_its_own(tmp_path, monkeypatch, capsys):
    """It is printed when it is known: that of the checkpoint, and not one that was drawn and dropped."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(WandbLog, "_start", lambda self: None)
    log = WandbLog(WandbConfig(directory=str(tmp_path)), "A/1", {}, log=tmp_path / "run.jsonl")
    assert capsys.readouterr().out == ""
    log.start("abcd1234")
    assert capsys.readouterr().out == f"A/1: W&B run at {tmp_path}/wandb/offline-run-*-abcd1234\n"
