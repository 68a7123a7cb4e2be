"""`train.source: live`: the stages `harvest`, `train` and `sweep` with nothing stored.

The transformer is a toy; the real one is run by the test of the whole pipeline."""

import json

import pytest

import sae.source.transformer
from pipelines import harvest, sweep, train
from pipelines.common import Stage
from sae import artefact
from sae.dictionary.disk import read_dictionary
from sae.errors import ConfigError, StoreError
from sae.provenance import Run
from sae.training.config import TrainConfig
from sae.training.fit import fit
from tests.support.live import HARVEST, N_VOCAB, Prefixes, live_rows
from tests.support.stores import make_tokens

TRAIN = {"n_features": 24, "batch_size": 40, "n_steps": 30, "log_every": 10, "l1": 3.0, "resample_inputs": 80}


def params(**changes):
    feed = {"source": "live", "live_buffer_rows": 120}
    others = {"run": {"device": "cpu"}, "wandb": {"mode": "disabled"}, "harvest": HARVEST}
    return {**others, "train": {**TRAIN, **feed, **changes}, "sweep": {"dictionaries": {"a": {"seed": 1}, "b": {"l1": 2.0}}}}


def write_transformer(seed):
    with artefact.writing("data/A/transformer", Run(kind="transformer", seed=seed)):
        pass


@pytest.fixture
def tokens(tmp_path, monkeypatch):
    """Of a project, in whose root we are, with a transformer."""
    monkeypatch.chdir(tmp_path)
    for module in (sae.source.transformer, harvest):
        monkeypatch.setattr(module, "load_source", lambda path, device: Prefixes())
    write_transformer(0)
    return make_tokens(tmp_path / "data/tokens", n_vocab=N_VOCAB)


def test_nothing_is_stored_and_training_is_that_of_python(tokens, tmp_path, capsys):
    harvest.main(Stage("harvest", params()))
    assert [path.name for path in (tmp_path / "data/A/activations").rglob("*")] == ["run.json"]
    train.main(Stage("train", params()))
    told = capsys.readouterr().out
    assert "200 rows of 16 an epoch from 40 of 60 train contexts, 120 of them in memory (0 MiB): 6.00 epochs" in told
    dictionary = read_dictionary("data/A/1/dictionary")
    assert dictionary.run.facts["epochs"] == 6.0
    expected = fit(live_rows(tokens), [TrainConfig(**TRAIN)])[0].dictionary
    assert dictionary.W_enc.equal(expected.W_enc)
    assert not (tmp_path / "data/A/1/checkpoints").exists()
    sweep.main(Stage("sweep", params()))
    assert set(json.loads((tmp_path / "reports/sweep/sweep.json").read_text())) == {"A/sweep/a", "A/sweep/b"}


def test_what_the_record_was_not_made_of_is_refused(tokens):
    harvest.main(Stage("harvest", params()))
    with pytest.raises(StoreError, match="is a live feed, not a activations; make it with: dvc repro harvest"):
        train.main(Stage("train", params(source="store")))
    write_transformer(1)
    with pytest.raises(StoreError, match=r"transformer is another one than data/A/activations was planned for; run: dvc repro"):
        train.main(Stage("train", params()))
    harvest.main(Stage("harvest", params()))
    train.main(Stage("train", params()))


def test_a_store_and_a_record_take_each_others_place(tokens, tmp_path):
    harvest.main(Stage("harvest", params(source="store")))
    train.main(Stage("train", params(source="store")))
    with pytest.raises(StoreError, match="is a activations, not a live feed"):
        train.main(Stage("train", params()))
    harvest.main(Stage("harvest", params()))
    assert not (tmp_path / "data/A/activations/activations.zarr").exists()
    (tmp_path / "data/A/activations.partial").mkdir()
    with pytest.raises(StoreError, match="holds unfinished work"):
        harvest.main(Stage("harvest", params()), keep=True)
    harvest.main(Stage("harvest", params(source="store")))
    train.main(Stage("train", params(source="store")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "disk"}, r"'train.source' = 'disk'"),
        ({"live_buffer_rows": 0}, "'live_buffer_rows' = 0"),
        ({"live_buffer_rows": 119}, "a buffer of 119 rows does not hold 8"),
        ({"live_buffer": 9}, "'train.live_buffer' is not a parameter"),
    ],
)
def test_wrong_params(tokens, change, message):
    harvest.main(Stage("harvest", params()))
    with pytest.raises(ConfigError, match=message):
        train.main(Stage("train", params(**change)))
