"""The stage `transformer` from params to artefact, over a tiny token store."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import transformer
from pipelines.common import Stage
from sae.errors import ConfigError, NumericsError
from sae.source.transformer import load_source
from tests.support.stores import make_tokens

TINY = {"d_model": 16, "d_mlp": 32, "n_heads": 2, "n_tokens": 2000, "contexts_per_batch": 4, "heldout_tokens": 200}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_tokens(tmp_path / "data" / "tokens")
    return tmp_path


def run(name: str = "A", **changes: Any) -> Path:
    params = {"run": {"transformer": name, "device": "cpu"}, "transformer": {**TINY, **changes}}
    stage = Stage("transformer", params)
    transformer.main(stage)
    return stage.transformer


def test_it_trains_saves_and_reports(capsys: pytest.CaptureFixture[str]) -> None:
    source = load_source(run(activation="solu_ln"))
    out = capsys.readouterr().out
    assert "A: trained here, at blocks.0.mlp.hook_post, 32 wide -> data/A/transformer" in out
    assert "DOES NOT BEAT THE BIGRAM CLEARLY" in out  # the tokens are random
    assert source.run is not None
    assert source.run.id == "A"
    assert source.run.facts["n_heldout_tokens"] == 12 * 15  # 200 tokens are 12 contexts of 16, of each 15 are predicted
    assert source.run.facts["n_train_tokens"] == 32 * 64  # 2000 tokens are 32 batches of 4 contexts of 16
    assert source.run.facts["heldout_loss"] < 6
    assert source.bridge.cfg.act_fn == "solu_ln"
    assert source.run.parents.keys() == {"data/tokens"}


def test_two_runs_write_the_same_bytes(project: Path) -> None:
    first = {file.name: file.read_bytes() for file in run().iterdir()}
    assert first == {file.name: file.read_bytes() for file in run().iterdir()}
    assert set(first) == {"config.json", "weights.safetensors", "run.json"}
    assert str(project) not in first["run.json"].decode()


def test_a_folder_that_the_stage_wrote_is_taken_whole() -> None:
    here, there = load_source(run()), load_source(run("B", source="folder", path="data/A/transformer"))
    tokens = torch.arange(16)[None]
    assert torch.equal(here.logits(tokens), there.logits(tokens))
    assert there.run is not None
    assert there.run.id == "B"
    assert there.run.facts["origin"] == "a transformer that this stage wrote"


def test_a_layer_that_the_transformer_lacks_leaves_nothing_behind(project: Path) -> None:
    run()
    with pytest.raises(ConfigError, match="layer 2 asked for, but the transformer has 1 layer"):
        run("B", source="folder", path="data/A/transformer", layer=2)
    assert not list((project / "data" / "B").glob("[!.]*"))


def test_another_vocabulary_or_shorter_contexts_are_refused(project: Path) -> None:
    run()
    make_tokens(project / "data" / "tokens", n_vocab=60)
    with pytest.raises(ConfigError, match=r"60 token ids, the transformer's vocabulary only 50"):
        run("B", source="folder", path="data/A/transformer")
    make_tokens(project / "data" / "tokens", context_length=32)
    with pytest.raises(ConfigError, match="32 tokens long, the transformer takes at most 16"):
        run("B", source="folder", path="data/A/transformer")


def test_a_rate_that_is_far_too_high_keeps_the_old_artefact(project: Path) -> None:
    old = run()
    before = json.loads((old / "run.json").read_text())
    with pytest.raises(NumericsError, match=r"Lower transformer.learning_rate \(now 1e\+30\)"):
        run(learning_rate=1e30, clip=1e30)
    assert json.loads((old / "run.json").read_text()) == before
    assert not (project / "data" / "A" / "transformer.partial").exists()
