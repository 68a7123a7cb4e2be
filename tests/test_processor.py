"""What computed stands in every record, and who goes on elsewhere is told what that means."""

import dataclasses
import json

import pytest
import torch

from sae import artefact, provenance
from sae.provenance import Run, changed, elsewhere, processor
from sae.training.fit import fit
from tests.support.stores import make_tokens
from tests.support.toy_harvest import StoppedError, Stopping, bytes_of, toy_harvest
from tests.support.toy_training import Watcher, assert_same_bits, toy_config, toy_rows

OTHER = {"torch": "AVX7", "numba": "z80", "threads": 3}


@pytest.fixture
def on_another(monkeypatch):
    """From now on this machine is another one."""

    def move():
        monkeypatch.setattr(provenance, "processor", lambda: OTHER)
        monkeypatch.setattr("sae.training.fit.processor", lambda: OTHER)

    return move


def test_the_record_says_what_torch_and_numba_see(monkeypatch):
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx2")
    run = Run(kind="x")
    assert run.processor == {
        "torch": torch.backends.cpu.get_cpu_capability(),
        "numba": "haswell with +avx2",
        "threads": torch.get_num_threads(),
    }
    assert {"numba", "sae-pipeline", "torch"} < run.versions.keys()
    assert Run.from_json(run.to_json()) == run


def test_a_record_without_a_processor_is_read_as_one():
    fields = dataclasses.asdict(Run(kind="x"))
    del fields["processor"]
    assert Run.from_json(json.dumps(fields)).processor == {}


def test_what_changed_is_named_and_nothing_else():
    run = Run(kind="x", versions={"torch": "2"}, processor=OTHER, code="a")
    assert changed(run, run) == []
    now = dataclasses.replace(run, versions={"torch": "3"}, processor={**OTHER, "threads": 4}, device="cuda")
    assert changed(run, now) == ["processor (threads) 3, now 4", "torch 2, now 3", "device cpu, now cuda"]
    assert elsewhere(OTHER, {**OTHER, "threads": 9}) == elsewhere({}, OTHER) == ""
    assert "torch AVX7, now AVX2" in elsewhere(OTHER, {**OTHER, "torch": "AVX2"})


def test_a_harvest_goes_on_elsewhere_and_says_so(tmp_path, on_another, capsys):
    tokens = make_tokens(tmp_path / "tokens")
    toy_harvest(tmp_path / "here", tokens)
    with pytest.raises(StoppedError):
        toy_harvest(tmp_path / "acts", tokens, Stopping(3))
    begun = json.loads((tmp_path / "acts.partial/plan.json").read_text())
    assert begun["processor"] == processor()
    assert "another processor" not in capsys.readouterr().err
    on_another()
    toy_harvest(tmp_path / "acts", tokens)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "another processor" in line]
    assert "the result is neither machine's" in line
    run = artefact.read_run(tmp_path / "acts", "activations")
    assert run.processor == {**OTHER, "threads": begun["n_threads"]}
    assert run.facts["begun_on"] == begun["processor"]
    here = bytes_of(tmp_path / "here")
    there = bytes_of(tmp_path / "acts")
    assert {name for name in here if here[name] != there[name]} == {"run.json"}, "what was made before is gone on with"


def test_a_training_goes_on_elsewhere_and_says_so(tmp_path, on_another, capsys):
    config = [toy_config(n_steps=8)]
    straight = fit(toy_rows(), config)

    def stop(n):
        if n == 3:
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fit(toy_rows(), config, checkpoints=tmp_path, checkpoint_seconds=0.0, observers=[[Watcher(stop)]])
    capsys.readouterr()
    on_another()
    (gone_on,) = fit(toy_rows(), config, checkpoints=tmp_path, observers=[[Watcher(lambda n: None)]])
    assert "training goes on; it was begun on another processor" in capsys.readouterr().err
    assert gone_on.dictionary.run.facts.pop("begun_on") == elsewhere_from(straight)
    assert_same_bits(gone_on, straight[0])
    (again,) = fit(toy_rows(), config, checkpoints=tmp_path, observers=[[Watcher(lambda n: None)]])
    assert "begun_on" in again.dictionary.run.facts, "in every later checkpoint too"


def elsewhere_from(trained):
    return trained[0].dictionary.run.processor
