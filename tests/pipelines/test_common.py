"""Where a stage's artefacts lie, and params from the command line."""

from pathlib import Path

import pytest
import torch

from pipelines.common import RunConfig, Stage, run_stage
from sae.config import build
from sae.errors import ConfigError, DiskError


def test_one_of_several_dictionaries_has_rows_and_reports_of_its_own():
    one = Stage("train", {"run": {"device": "cpu", "bucket": "s3://b/"}})
    assert (one.activations, one.reports) == (Path("data/A/activations"), Path("reports"))
    assert one.activations_url == "s3://b/A/activations"
    several = Stage(
        "train", {"run": {"device": "cpu", "bucket": "s3://b/", "transformer": "B", "dictionary": 2, "several": True}}
    )
    assert (several.activations, several.reports) == (Path("data/B/2/activations"), Path("reports/B-2"))
    assert several.activations_url == "s3://b/B/2/activations"
    assert (several.transformer, several.dictionary) == (Path("data/B/transformer"), Path("data/B/2/dictionary"))
    assert several.all_reports == Path("reports")


def test_params_may_lie_elsewhere_and_be_set_otherwise(tmp_path, monkeypatch, capsys):
    (tmp_path / "params.yaml").write_text("run: {device: cpu, dictionary: 1, threads: 0}\n")
    words = ["x", "--params", str(tmp_path / "params.yaml"), "--set", "run.dictionary=7", "--set", "run.transformer=B"]
    monkeypatch.setattr("sys.argv", words)
    seen = []
    run_stage("train", seen.append)
    assert seen[0].dictionary_id == "B/7"
    monkeypatch.setattr("sys.argv", [*words, "--set", "rnu.x=1"])
    with pytest.raises(SystemExit) as caught:
        run_stage("train", seen.append)
    assert caught.value.code == 78
    assert "'rnu.x=1' sets no parameter" in capsys.readouterr().err


def test_a_stage_asks_for_the_same_bits_but_has_no_new_memory_filled(tmp_path, monkeypatch):
    """Under torch's determinism each new tensor is first filled with NaN: 0.8 ms for a batch, and all of it is written anyway."""
    (tmp_path / "params.yaml").write_text("run: {device: cpu}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["x"])
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)  # as torch has it
    seen = []

    def stage(_):
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory))

    run_stage("train", stage)
    assert seen == [(True, False)]


@pytest.mark.parametrize(
    ("goes_on", "advice"), [(True, "and it goes on with what is done"), (False, "to start this stage afresh")]
)
@pytest.mark.parametrize(("stop", "code", "said"), [(KeyboardInterrupt(), 130, "interrupted"), (SystemExit(143), 143, "ended")])
def test_a_stage_that_is_stopped_says_what_becomes_of_it(tmp_path, monkeypatch, capsys, goes_on, advice, stop, code, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("run: {device: cpu}\n")
    monkeypatch.setattr("sys.argv", ["x"])

    def stopped(_):
        raise stop

    with pytest.raises(SystemExit) as caught:
        run_stage("train", stopped, goes_on=goes_on)
    assert caught.value.code == code
    assert capsys.readouterr().err == f"train: {said}; nothing half-written is left, run again{', ' * goes_on or ' '}{advice}\n"


def test_what_was_noted_to_an_error_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("run: {device: cpu}\n")
    monkeypatch.setattr("sys.argv", ["x"])

    def failed(_):
        error = DiskError("no space left")
        error.add_note("all steps before are saved in c")
        raise error

    with pytest.raises(SystemExit):
        run_stage("train", failed)
    assert capsys.readouterr().err == "train: no space left; all steps before are saved in c\n"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dictionary": "transformer"}, "'dictionary' = 'transformer': a folder of that name is the pipeline's own"),
        ({"dictionary": "Activations"}, "'Activations': a folder"),
        ({"dictionary": "sweep"}, "'sweep': a folder"),
        ({"transformer": "corpus"}, "'transformer' = 'corpus': a folder"),
        ({"transformer": "tokens"}, "'tokens': a folder"),
        ({"transformer": "tokens.partial"}, "ends with .partial is an unfinished artefact"),
        ({"dictionary": "transformer.old.partial"}, "ends with .partial"),
        ({"dictionary": "../x"}, "becomes a folder under data/"),
        ({"dictionary": True}, "'run.dictionary"),
        ({"threads": 2**31}, r"'threads' = 2147483648: .* at most 1,024"),
        ({"threads": 2**70}, "more than 64 bits"),
        ({"threads": -1}, "must be 0"),
        ({"threads": True}, "'run.threads' = True: a number, not true or false"),
    ],
)
def test_a_run_that_cannot_be_is_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        build(RunConfig, values, "run")
