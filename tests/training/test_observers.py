"""The local log is whole and can be gone on with; the history knows no clock. W&B: test_mirror.py."""

import json

import numpy as np
import pytest
import torch

from sae.config import build
from sae.errors import ConfigError
from sae.training.observers import History, JsonLog, WandbConfig, WandbLog

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
