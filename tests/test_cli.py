"""The `sae` command over a toy project. The transformer is a toy: the real one is run by the test of the whole pipeline."""

import dataclasses
import re
import shutil
import subprocess
import sys
import types
import webbrowser

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import sae
from sae import artefact
from sae.cli.main import app
from sae.provenance import Run
from sae.reports import write_figures
from sae.shown import printable
from sae.storage.tokens import TokenStore
from tests.support.chosen import assert_largest
from tests.web import toy_project

TEXT = "the cat שלום"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    toy_project.make(root)
    return root


@pytest.fixture
def run(made, monkeypatch):
    """Runs the command in the project's root; a toy stands in for transformer_lens, which takes seconds to import."""
    door = types.ModuleType("sae.source.transformer")
    door.load_source = lambda path, device: toy_project.source()
    monkeypatch.setitem(sys.modules, "sae.source.transformer", door)
    monkeypatch.chdir(made)
    return lambda *words: CliRunner().invoke(app, list(words))


def test_info_says_what_it_is_and_how_good(run, made):
    done = run("info", "A/1")
    assert done.exit_code == 0, done.output
    lines = dict(line.split("  ", 1) for line in done.output.splitlines() if "  " in line)
    lines = {key: value.strip() for key, value in lines.items()}
    assert lines["dictionary"] == "A/1, tied_bias_relu"
    assert lines["features"] == "24 over 16 neurons (808 parameters)"  # 2 · 24 · 16 + 24 + 16
    assert lines["transformer"] == "A, heldout loss 3.25"
    assert (lines["seed"], lines["params"], lines["n steps"]) == ("7", "l1=0.003", "12,345")
    assert (lines["L0"], lines["Loss recovered"]) == ("16.9", "93.9 %")
    dead = int((sae.FeatureTable.open(made / "data/A/1/features")["n_active"] == 0).sum())
    assert lines["dead"].startswith(f"{dead} of 24 features never fired on")
    assert lines["page"].endswith("data/A/1/browser/index.html")


def test_info_gives_no_figures_of_another_dictionary(run, made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    parents = {"data/A/1/dictionary": "0" * 64}
    with artefact.writing(tmp_path / "copy/reports/evaluate", Run(kind="evaluation", parents=parents)) as draft:
        write_figures(draft.path, "metrics", toy_project.METRICS)
    done = run("info", "A/1", "--root", str(tmp_path / "copy/data"))
    assert "16.9" not in done.output
    assert "not shown, they are another's" in done.output
    assert "dvc repro evaluate" in done.output


def test_info_gives_no_figures_of_other_tokens(run, made, tmp_path):
    """The dictionary is the same, the text that it was measured on is another now."""
    shutil.copytree(made, tmp_path / "copy")
    digest = artefact.digest(made / "data/A/1/dictionary")
    parents = {"data/A/1/dictionary": digest, "data/tokens": "0" * 64, "data/removed": "1" * 64}
    with artefact.writing(tmp_path / "copy/reports/evaluate", Run(kind="evaluation", parents=parents)) as draft:
        write_figures(draft.path, "metrics", toy_project.METRICS)
    done = run("info", "A/1", "--root", str(tmp_path / "copy/data"))
    assert "16.9" not in done.output
    assert "made from another data/tokens than the one there now" in done.output


def test_features_prints_for_each_token_what_fires(run, made):
    done = run("features", "A/1", "--text", TEXT, "--top", "2")
    assert done.exit_code == 0, done.output
    dictionary, source = sae.load(made / "data/A/1"), toy_project.source()
    tokens = TokenStore.open(made / "data/tokens")
    lines, rest = done.output.split("\n\n")
    shown = lines.splitlines()
    from sae.source.tokenizer import read_tokenizer

    ids = read_tokenizer(tokens.tokenizer_path).encode(TEXT, add_special_tokens=False).ids
    assert len(shown) == len(ids)
    activations = dictionary.encode(source.activations(torch.tensor([[0, *ids]])))[0, 1:]
    assert b"".join(tokens.vocabulary[i] for i in ids).decode() == TEXT
    for line, token, row in zip(shown, ids, activations, strict=True):
        text = tokens.vocabulary[token].decode("utf-8", errors="backslashreplace")
        assert line.startswith(f"'{text}'")
        printed = re.findall(r"#(\d+) (\S+)", line[len(text) + 2 :])
        features = [int(feature) for feature, _ in printed]
        assert_largest(features, row.numpy(), 2)
        np.testing.assert_allclose([float(value) for _, value in printed], row[features], rtol=0.006)
    mean = float((activations > 0).sum(1).float().mean())
    assert f"{len(ids)} tokens, {mean:.1f} features active on each" in rest


def test_long_text_is_read_in_contexts_that_each_begin_with_bos(run):
    done = run("features", "A/1", "--text", "the cat sat on the mat " * 10)
    assert done.exit_code == 0, done.output
    assert "contexts: the text is longer" in done.output


def test_feature_describes_one(run):
    assert run("feature", "A/1/5").output.startswith("A/1/5: density 1.00e+00")
    assert run("feature", "data/A/1/3").output.startswith("A/1/3: never fired")


def test_steer_writes_with_and_without_the_feature(run):
    from sae.causal.interventions import pin
    from sae.causal.sampling import sample
    from sae.source.tokenizer import read_tokenizer

    dictionary, source, tokens = sae.load("data/A/1"), toy_project.source(), TokenStore.open("data/tokens")
    ids = read_tokenizer(tokens.tokenizer_path).encode(TEXT, add_special_tokens=False).ids
    maximum = dictionary.feature(5).max_activation

    def written(change):
        drawn = sample(source, [0, *ids], 8, temperature=0.5, seed=3, change=change, bos=0)
        return printable(b"".join(tokens.vocabulary[i] for i in drawn))

    options = ("--text", TEXT, "--tokens", "8", "--temperature", "0.5", "--seed", "3")
    done = run("steer", "A/1/5", *options, "--scale", "2")
    assert done.exit_code == 0, done.output
    clean, steered = done.output.splitlines()
    assert clean.split(None, 3)[3] == f"{TEXT}[[{written(None)}]]"
    assert steered.startswith(f"at {2 * maximum:.3g} ")
    assert steered.endswith(f"{TEXT}[[{written(pin(dictionary, 5, 2 * maximum))}]]")
    assert written(None) != written(pin(dictionary, 5, 2 * maximum))
    ablated = run("steer", "A/1/5", *options, "--without").output.splitlines()[1]
    assert ablated.startswith("at 0 ")
    assert ablated.endswith(f"[[{written(pin(dictionary, 5, 0.0))}]]")
    at_value = run("steer", "A/1/5", *options, "--value", "-3").output.splitlines()[1]
    assert at_value.endswith(f"[[{written(pin(dictionary, 5, -3.0))}]]")


def test_browse_prints_the_page_and_opens_it_unless_told_not_to(run, made, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    page = (made / "data/A/1/browser/index.html").resolve()
    assert run("browse", "A/1", "--no-open").output == f"{page}\n"
    assert opened == []
    assert run("browse", "A/1").output == f"{page}\n"
    assert opened == [page.as_uri()]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["info", "B/1"], 65, "there are: A/1"),
        (["info", "../../etc"], 65, "no dictionary"),
        (["feature", "A/1/24"], 78, "no feature 24"),
        (["feature", "A/1"], 78, "'A/1' names no feature; write a dictionary and a number, such as A/1/3450"),
        (["feature", "3450"], 78, "names no feature"),
        (["feature", "A/1/x"], 78, "names no feature"),
        (["features", "A/1", "--text", ""], 78, "the text is empty"),
        (["features", "A/1", "--text", "\udcff"], 78, "not UTF-8"),
        (["features", "A/1", "--text", "x", "--device", "tpu9"], 78, "device 'tpu9'"),
        (["steer", "A/1/24"], 78, "no feature 24"),
        (["steer", "A/1/24", "--value", "1"], 78, "no feature 24"),
        (["steer", "A/1"], 78, "'A/1' names no feature; write a dictionary and a number, such as A/1/3450"),
        (["steer", "A/1/5", "--text", ""], 78, "the text is empty"),
        (["steer", "A/1/5", "--without", "--value", "1"], 78, "--without holds the feature at 0"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(run, words, code, says):
    done = run(*words)
    assert done.exit_code == code
    assert says in done.stderr
    assert done.stderr.startswith("sae: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_dictionary_alone_has_no_text_to_read(run, made, tmp_path):
    shutil.copytree(made / "data/A/1/dictionary", tmp_path / "alone")
    done = run("features", str(tmp_path / "alone"), "--text", "x")
    assert (done.exit_code, "lies alone" in done.stderr) == (65, True)
    assert run("info", str(tmp_path / "alone")).exit_code == 0


def test_features_of_another_dictionary_are_refused(run, made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    record = tmp_path / "copy/data/A/1/dictionary/run.json"
    other = Run.from_json(record.read_text())
    record.write_text(dataclasses.replace(other, seed=12346).to_json())
    done = run("feature", "A/1/5", "--root", str(tmp_path / "copy/data"))
    assert (done.exit_code, "made from another dictionary" in done.stderr) == (65, True)


def test_the_command_starts_without_torch():
    code = "import sys, sae.cli.main; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
