"""The stages with `device: cuda`, on a pretended device: a few of them beside the same on the processor, and (slow) all."""

import importlib
import json
from contextlib import nullcontext

import pytest
import torch
import yaml

from pipelines.common import Stage
from sae import load
from sae.source.transformer import load_source
from sae.storage.activations import ActivationStore
from tests.import_graph import ROOT
from tests.support.pretended_device import pretended
from tests.support.stores import make_tokens

FEW = {
    "transformer": {"n_tokens": 640, "d_model": 16, "d_mlp": 32, "n_heads": 2, "heldout_tokens": 256, "precision": "float32"},
    "harvest": {"n_rows": 240, "positions_per_context": 4, "batch_contexts": 8},
    "train": {"n_features": 48, "batch_size": 40, "n_steps": 20, "resample_inputs": 80, "log_every": 5, "engine": "dense"},
    "wandb": {"mode": "disabled"},
}
ALL = {
    "corpus": {"megabytes": 0.3},
    "tokens": {"n_vocab": 400, "context_length": 32},
    "transformer": {"n_tokens": 4000, "d_model": 32, "d_mlp": 64, "n_heads": 2, "heldout_tokens": 2048},
    "harvest": {"n_rows": 8000, "positions_per_context": 16},
    "train": {"n_features": 128, "batch_size": 512, "n_steps": 40, "resample_inputs": 1024, "log_every": 10, "engine": "dense"},
    "sweep": {"dictionaries": {"sparse": {"l1": 6.0, "n_steps": 10}}},
    "features": {"n_tokens": 4096},
    "evaluate": {"n_tokens": 2048, "n_density_tokens": 4096, "n_bootstrap": 20},
    "proxies": {"n_tokens": 4096, "n_sample_tokens": 4096, "hypotheses": ["hebrew", "dna-competing"]},
    "universality": {"n_tokens": 2048, "n_bootstrap": 10, "pairs": [["A/1", "A/sweep/sparse"]]},
    "interpret": {"n_tokens": 2048, "n_units": 8, "min_active": 3, "n_bootstrap": 5, "beside": []},
    "claims": {
        "hypotheses": ["hebrew"],
        "n_tokens": 2048,
        "n_choice_tokens": 2048,
        "n_sample_tokens": 4096,
        "n_controls": 3,
        "n_continuations": 2,
        "continued_tokens": 4,
        "n_bootstrap": 10,
    },
    "automata": {"n_tokens": 2048},
    "splitting": {"n_tokens": 2048, "dictionaries": ["A/1", "A/sweep/sparse"]},
    "wandb": {"mode": "disabled"},
}
STAGES = "corpus tokens transformer harvest train sweep features evaluate proxies browser interpret universality claims automata"
MORE = "splitting controls report summary"


def run(folder, device, changes, stages):
    """The stages, one after the other, in `folder`."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in {**changes, "run": {"device": device, "threads": 1}}.items():
        params[section] |= values
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in stages.split():
            importlib.import_module(f"pipelines.{name}").main(Stage(name, params))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The folders of a run on the processor and of one on the pretended device."""
    folders = [tmp_path_factory.mktemp(device) for device in ("cpu", "cuda")]
    for folder in folders:
        (folder / "data").mkdir()
        make_tokens(folder / "data/tokens")
        with pretended() if folder is folders[1] else nullcontext():
            run(folder, "cuda" if folder is folders[1] else "cpu", FEW, "transformer harvest train")
    return folders


def test_the_transformer_is_the_processors(both):
    """Its gradients, over a whole training. (A bias of keys has none but rounding's, which Adam makes as large as any.)"""
    here, there = (load_source(folder / "data/A/transformer", "cpu").bridge.original_model.state_dict() for folder in both)
    assert here.keys() == there.keys()
    for name in (name for name, value in here.items() if value.ndim > 1):
        assert float((here[name] - there[name]).norm() / here[name].norm()) < 1e-3, name


def test_rows_and_dictionary_are_the_processors_up_to_rounding(both):
    here, there = (next(ActivationStore.open(folder / "data/A/activations").batches(200)) for folder in both)
    torch.testing.assert_close(there, here, rtol=1e-2, atol=1e-3)
    here, there = (load("A/1", root=folder / "data") for folder in both)
    assert float((here.W_dec - there.W_dec).norm() / here.W_dec.norm()) < 0.05
    assert here.run.facts["last_record"]["l0"] == pytest.approx(there.run.facts["last_record"]["l0"], rel=0.05)


def test_every_artefact_says_where_it_was_made(both):
    for folder, device in zip(both, ("cpu", "cuda"), strict=True):
        records = [json.loads(path.read_text()) for path in folder.glob("data/A/**/run.json")]
        assert {record["kind"]: record["device"] for record in records} == dict.fromkeys(
            ("transformer", "activations", "dictionary"), device
        )


@pytest.mark.slow
def test_every_stage_runs(tmp_path):
    with pretended():
        run(tmp_path, "cuda", ALL, f"{STAGES} {MORE}")
        live = {**ALL, "train": ALL["train"] | {"source": "live", "live_buffer_rows": 8192}}
        run(tmp_path, "cuda", live, "harvest train")
    assert (tmp_path / "reports/summary.txt").is_file()
    assert json.loads((tmp_path / "data/A/activations/run.json").read_text())["kind"] == "live feed"
