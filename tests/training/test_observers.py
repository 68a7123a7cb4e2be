"""Records reach the local log and W&B's offline file alike; a server that does not answer costs seconds, not the run."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sae.config import build
from sae.errors import ConfigError
from sae.training.observers import History, JsonLog, WandbConfig, WandbLog

RECORDS = [
    (10, {"loss": 3.0, "log10_density": (np.array([1, 2]), np.array([0.0, 1.0, 2.0])), "seconds": 1.5}),
    (20, {"loss": 2.5}),
]


def test_history_keeps_no_clock():
    history = History()
    for step, values in RECORDS:
        history.record(step, values)
    history.event(15, "resampling", {"n_resampled": 4})
    assert [json.loads(line) for line in history.to_jsonl().splitlines()] == [
        {"step": 10, "loss": 3.0},
        {"step": 20, "loss": 2.5},
        {"step": 15, "event": "resampling", "n_resampled": 4},
    ]


def test_json_log_is_there_line_by_line(tmp_path):
    log = JsonLog(tmp_path / "logs" / "run.jsonl")
    log.record(*RECORDS[0])
    row = json.loads((tmp_path / "logs" / "run.jsonl").read_text())
    assert row["seconds"] == 1.5
    assert row["log10_density"][0] == [1, 2]
    log.close()


def test_offline_run_holds_every_record(tmp_path):
    log = WandbLog(WandbConfig(directory=str(tmp_path)), "A/1", {"l1": 4.0})
    for step, values in RECORDS:
        log.record(step, values)
    log.event(15, "resampling", {"n_resampled": 4})
    where = log.where
    log.close()
    assert where.startswith(str(tmp_path))
    file = next(tmp_path.rglob("*.wandb"))
    wandb = str(Path(sys.executable).with_name("wandb"))
    command = [wandb, "leet", "inspect", str(file), "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    history = [line for line in found.splitlines() if '"type":"history"' in line]
    assert len(history) == 3
    assert "resampling/n_resampled" in history[2]


def test_a_server_out_of_reach_leads_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    start = time.monotonic()
    log = WandbLog(WandbConfig(mode="online", directory=str(tmp_path), timeout=3.0), "A/1", {})
    log.record(*RECORDS[0])
    log.close()
    assert time.monotonic() - start < 60
    assert "going on offline" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.parametrize("wrong", [{"mode": "sometimes"}, {"timeout": 0}])
def test_wrong_settings(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build(WandbConfig, wrong, "wandb")
