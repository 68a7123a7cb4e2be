"""Text of a hub: streamed over HTTP from a stub, taken from a cache laid out by hand, and refused in plain words."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from pipelines.common import Stage
from pipelines.corpus import main
from sae.errors import ConfigError, CorpusError, UnavailableError
from sae.source.corpus_hub import HubText, read_hub
from tests.source.stub_hub import COMMIT, REPO, hub

ROOT = Path(__file__).resolve().parents[2]
RECORDS = [{"content": f"text {i}", "n": i} for i in range(50)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
WANTED = HubText(REPO, COMMIT, "", "train", "content")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub cache that holds the pinned revision, as `hf download` leaves it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / f"datasets--{REPO.replace('/', '--')}" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(LINES)
    return folder


STREAM = f"""
import json
from pathlib import Path
from sae.source.corpus import CorpusConfig, gather
# A folder of the data set's name in the working directory is none of the hub's.
Path("{REPO}").mkdir(parents=True)
Path("{REPO}/train.jsonl").write_text('{{"content": "of the disk"}}')
config = CorpusConfig(source="hub", dataset="{REPO}", revision="{COMMIT}", text_column="content", max_documents=7)
print(json.dumps(list(gather(config)[0])))
"""


def test_streams_the_first_documents_from_a_hub(tmp_path):
    """In a process of its own: the hub's address is read at the import."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    with hub({"train.jsonl": LINES}) as endpoint:
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-c", STREAM]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    expected = [[f"text {i}", "some-texts", f"{REPO}:{i}"] for i in range(7)]
    assert json.loads(done.stdout) == expected


def test_hub_out_of_reach_is_one_message_soon_and_nothing_half_written(tmp_path, monkeypatch, slept):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sae.provenance.code_revision", lambda: "test")  # git is waited for with `sleep` too
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens: a real refusal
    section = {"source": "hub", "dataset": REPO, "revision": COMMIT}
    with pytest.raises(UnavailableError) as caught:
        main(Stage("corpus", {"run": {"device": "cpu"}, "corpus": section}))
    assert sum(slept) < 5  # of the 23 s that datasets' own retries wait
    for part in (REPO, COMMIT, "ConnectError", "HF_HUB_OFFLINE=1", "hf download"):
        assert part in str(caught.value)
    assert caught.value.exit_code == 69
    assert not list(tmp_path.rglob("corpus*"))


def test_offline_takes_the_pinned_revision_from_the_cache(cache):
    documents = list(read_hub(WANTED, 3))
    assert [document.text for document in documents] == ["text 0", "text 1", "text 2"]


def test_offline_never_takes_another_revision(cache):
    with pytest.raises(UnavailableError, match=r"someone/some-texts.*not in the cache"):
        list(read_hub(WANTED._replace(revision="f" * 40), 3))


def test_kind_of_the_record_wins(cache):
    (cache / "train.jsonl").write_text('{"content": "שלום", "kind": "hebrew"}\n')
    assert [document.kind for document in read_hub(WANTED, 3)] == ["hebrew"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"column": "text"}, CorpusError, r"no field 'text' \(it has: content, n\).*text_column"),
        ({"split": "best"}, ConfigError, "split 'best'"),
        ({"dataset": "a/b/c"}, ConfigError, "is no name"),
    ],
)
def test_wrong_wishes_name_what_is_wrong(cache, change, error, words):
    with pytest.raises(error, match=words):
        list(read_hub(WANTED._replace(**change), 3))
