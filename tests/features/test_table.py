import json
import shutil

import numpy as np
import pytest

from sae import artefact
from sae.errors import ConfigError, StoreError
from sae.features.collect import collect
from sae.features.config import FeaturesConfig
from sae.features.table import COLUMNS, FeatureTable
from sae.provenance import Run
from sae.shown import printable
from tests.features.toy import setup

CONFIG = FeaturesConfig(n_tokens=300, n_top=3, n_intervals=2, examples_per_interval=1, window=2, logit_min_count=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    table = collect(*setup(folder), CONFIG)
    with artefact.writing(folder / "features", Run(kind="features", id="A/1")) as draft:
        table.write(draft.path)
    return table, folder / "features"


def test_what_is_written_is_read(made):
    table, path = made
    opened = FeatureTable.open(path)
    assert len(opened) == len(table) == 24
    assert opened.run.id == "A/1"
    assert opened.info == table.info
    assert opened.vocabulary == table.vocabulary
    for name, column in COLUMNS.items():
        np.testing.assert_array_equal(opened[name], table[name])
        assert opened[name].dtype == np.dtype(column.dtype)


def test_a_feature_in_words(made):
    table, path = made
    feature = FeatureTable.open(path).feature(0)
    assert feature.id == "A/1/0"
    assert feature.n_active == table["n_active"][0]
    assert [example.activation for example in feature.top_examples] == table["example_peak"][0, :3].tolist()
    first = feature.top_examples[0]
    text = first.before + first.token + first.after
    assert text == "".join(f"<{i}>" for i in table["example_tokens"][0, 0] if i >= 0)
    assert feature.positive_logits[0] == (f"<{table['logit_top_ids'][0, 0]}>", pytest.approx(table["logit_top_values"][0, 0]))
    assert [name for name, _ in feature.correlated_features] == [f"A/1/{i}" for i in table["feature_correlated_ids"][0]]
    assert feature.correlated_elsewhere == ()
    assert sum(feature.kinds.values()) == feature.n_active
    assert list(feature.kinds.values()) == sorted(feature.kinds.values(), reverse=True)
    shown = str(feature)
    assert "A/1/0: density" in shown
    assert f"[[{first.token}]]" in shown


def test_a_feature_that_never_fired_says_so(made):
    feature = FeatureTable.open(made[1]).feature(3)
    assert feature.examples == ()
    assert feature.correlated_neurons == ()
    assert "never fired" in str(feature)


def test_no_such_feature_or_column(made):
    with pytest.raises(ConfigError, match=r"no feature 24: .* has 24"):
        made[0].feature(24)
    with pytest.raises(ConfigError, match="no feature -1"):
        made[0].feature(-1)
    with pytest.raises(ConfigError, match="no column 'densty'; it has density"):
        made[0]["densty"]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"a\nb\tc", "a↵b→c"),
        (b"\x1b[31mred", "\\x1b[31mred"),  # no colours from the corpus
        ("\u202eright to left".encode(), "\\u202eright to left"),
        (b"\xd8", "\\xd8"),  # the first byte of an Arabic letter, as the paper writes it
        (b"\xd8\xab", "ث"),
        ("\U000e0041".encode(), "\\U000e0041"),
    ],
)
def test_text_of_the_corpus_is_data(raw, shown):
    assert printable(raw) == shown


def test_every_column_says_what_it_means(made):
    attributes = json.loads((made[1] / "features.zarr" / "zarr.json").read_text())["attributes"]
    assert attributes["definitions"].keys() == COLUMNS.keys()
    assert all(len(column.meaning) > 3 for column in COLUMNS.values())
    assert attributes["kinds"] == ["kind0", "kind1", "kind2"]


def test_damage_is_found(made, tmp_path):
    copy = tmp_path / "features"
    shutil.copytree(made[1], copy)
    victim = copy / "features.zarr" / "density" / "c" / "0"
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="density"):
        FeatureTable.open(copy)
    with pytest.raises(StoreError, match="dvc repro features"):
        FeatureTable.open(tmp_path / "none")


def test_the_same_table_is_written_in_the_same_bytes(made, tmp_path):
    table, path = made
    with artefact.writing(tmp_path / "again", Run(kind="features", id="A/1")) as draft:
        table.write(draft.path)
    assert (tmp_path / "again" / "run.json").read_text() == (path / "run.json").read_text()
