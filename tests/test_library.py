"""`sae.save` destroys nothing of the user's; paths that people give may begin with `~`; ids are told apart from names."""

import json
import os
from pathlib import Path

import pytest
import torch

import sae
from sae import foreign
from sae.device import to_device
from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.errors import ConfigError, StoreError
from sae.interpret.endpoint import JudgeConfig
from sae.interpret.judge import Judge
from sae.library import split_id
from sae.paths import given
from sae.storage.linked import folder_of
from sae.storage.upkeep import named
from tests.support.problems import problem


def dictionary(seed=0):
    weights, _ = problem(seed=seed)
    return TiedBiasDictionary(*weights)


def content(folder):
    """Every file below a folder, and what it holds."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_holds(folder, expected):
    assert torch.equal(sae.load(folder).W_enc, expected.W_enc)


@pytest.mark.parametrize("made", ["new", "empty", "a dictionary", "deep/new"])
def test_saved_where_nothing_is_lost(tmp_path, made):
    folder = tmp_path / made
    if made == "empty":
        folder.mkdir()
    if made == "a dictionary":
        sae.save(dictionary(seed=1), folder)
    sae.save(dictionary(), folder)
    assert_holds(folder, dictionary())
    assert [path.name for path in folder.parent.iterdir() if not path.name.startswith(".")] == [folder.name]


FOREIGN = {
    "a repository": {".git/HEAD": "ref: refs/heads/main\n", "paper.tex": "years of work"},
    "another's record": {"run.json": '{"lr": 0.1}', "weights.safetensors": "of something else"},
    "one hidden file": {".secret": "x"},
}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
def test_a_folder_that_holds_something_else_is_refused_and_stays(tmp_path, files):
    for name, text in files.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(text)
    before = content(tmp_path)
    with pytest.raises(StoreError, match=r"mine holds .*stays as it is.*; give a new or an empty folder"):
        sae.save(dictionary(), tmp_path / "mine")
    assert content(tmp_path) == before


def test_an_empty_folder_within_counts_as_something(tmp_path):
    (tmp_path / "mine" / "results").mkdir(parents=True)
    with pytest.raises(StoreError, match="holds something else than a dictionary"):
        sae.save(dictionary(), tmp_path / "mine")
    assert (tmp_path / "mine" / "results").is_dir()


def test_a_dictionary_with_notes_beside_its_files_stays(tmp_path):
    sae.save(dictionary(), tmp_path / "mine")
    (tmp_path / "mine" / "notes.txt").write_text("feature 3 is Arabic")
    with pytest.raises(StoreError, match=r"holds notes.txt, which is no part of its dictionary"):
        sae.save(dictionary(seed=1), tmp_path / "mine")
    assert_holds(tmp_path / "mine", dictionary())
    assert (tmp_path / "mine" / "notes.txt").read_text() == "feature 3 is Arabic"


def test_a_file_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(StoreError, match="is a file where an artefact's folder must be; give a new or an empty folder"):
        sae.save(dictionary(), tmp_path / "mine")
    assert content(tmp_path) == {Path("mine"): b"mine"}


@pytest.mark.parametrize("end", [".partial", ".old.partial"])
def test_a_folder_where_a_draft_would_lie_stays(tmp_path, end):
    (tmp_path / f"mine{end}").mkdir()
    (tmp_path / f"mine{end}" / "draft.tex").write_text("mine")
    with pytest.raises(StoreError, match=r"holds draft.tex, and is where a dictionary is written first"):
        sae.save(dictionary(), tmp_path / "mine")
    assert (tmp_path / f"mine{end}" / "draft.tex").read_text() == "mine"


def test_what_a_killed_save_left_is_no_obstacle(tmp_path):
    foreign.mark(tmp_path / "mine.partial")
    (tmp_path / "mine.partial" / "weights.safetensors").write_text("half")
    sae.save(dictionary(), tmp_path / "mine")
    assert_holds(tmp_path / "mine", dictionary())


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link(tmp_path, there):
    """To an empty folder, or to one that is to be made, of a larger disk, say."""
    (tmp_path / "large").mkdir()
    if there:
        (tmp_path / "large" / "d").mkdir()
    (tmp_path / "mine").symlink_to(tmp_path / "large" / "d")
    for seed in (0, 1):
        sae.save(dictionary(seed=seed), tmp_path / "mine")
        assert (tmp_path / "mine").is_symlink()
        assert_holds(tmp_path / "large" / "d", dictionary(seed=seed))


def test_a_link_to_something_else_is_refused(tmp_path):
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "paper.tex").write_text("years of work")
    (tmp_path / "mine").symlink_to(tmp_path / "repository")
    with pytest.raises(StoreError, match="repository holds something else"):
        sae.save(dictionary(), tmp_path / "mine")
    assert (tmp_path / "mine").is_symlink()
    assert (tmp_path / "repository" / "paper.tex").read_text() == "years of work"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder; the working folder is another, and stays empty."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert os.listdir(tmp_path / "here") == []


def test_a_tilde_is_the_home(home):
    sae.save(dictionary(), "~/data/A/1/dictionary")
    assert (home / "data" / "A" / "1" / "dictionary" / "run.json").is_file()
    assert_holds("~/data/A/1", dictionary())
    assert torch.equal(sae.load("A/1", root="~/data").W_enc, dictionary().W_enc)
    assert given("~") == home


def test_a_tilde_is_the_home_wherever_a_store_or_a_cache_is_named(home):
    assert folder_of("~/store") == named("~/store") == home / "store"
    assert Judge(JudgeConfig(), "~/cache").cache == home / "cache"
    for open_it in (sae.ActivationStore.open, sae.TokenStore.open, sae.FeatureTable.open):
        with pytest.raises(StoreError, match=f"at {home}/nowhere"):
            open_it("~/nowhere")


def test_the_home_of_nobody_is_told():
    with pytest.raises(ConfigError, match="home folder of a user that is not known here"):
        given("~nobody-of-that-name/x")
    assert given("a~b/~c") == Path("a~b/~c")


def test_a_record_says_what_it_did(tmp_path):
    sae.save(dictionary(), tmp_path / "mine")
    assert json.loads((tmp_path / "mine" / "run.json").read_text())["kind"] == "dictionary"


def test_a_dictionary_is_told_from_its_features(tmp_path):
    sae.save(dictionary(), tmp_path / "A" / "1" / "dictionary")
    assert split_id("A/1/3450", tmp_path) == ("A/1", 3450)
    assert split_id(f"{tmp_path}/A/1/7", "nowhere") == (f"{tmp_path}/A/1", 7)
    with pytest.raises(ConfigError, match="'A/1' names no feature; write a dictionary and a number, such as A/1/3450"):
        split_id("A/1", tmp_path)
    with pytest.raises(StoreError, match="'A/1/7' is a feature of the dictionary A/1: look at it with sae feature A/1/7"):
        sae.load("A/1/7", root=tmp_path)


@pytest.mark.parametrize(
    ("platform", "cuda", "expected"),
    [
        ("linux", None, r'a build for the CPU alone; install .*: pip install --force-reinstall "torch==[0-9.]+"; or use device'),
        ("win32", None, r'pip install --force-reinstall "torch==[0-9.]+" --index-url https://download.pytorch.org/whl/cu130;'),
        ("darwin", None, "there is no CUDA on macOS; use device: cpu"),
        ("linux", "13.0", "sees no CUDA device: see what nvidia-smi says"),
    ],
)
def test_a_device_that_is_not_there_is_told_with_what_to_install(monkeypatch, platform, cuda, expected):
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"device 'cuda' asked for, but .*{expected}"):
        to_device("cuda")
