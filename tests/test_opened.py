"""Tables and token stores that are open while a newer one takes their place: what is read is the old one's, or that is said."""

import shutil

import numpy as np
import pytest

import sae
from sae import artefact
from sae.dictionary.disk import write_dictionary
from sae.errors import StoreError
from sae.features.table import FeatureTable
from sae.provenance import Run
from sae.storage.tokens import TokenStore
from tests.features.toy import random_dictionary
from tests.support.stores import make_tokens
from tests.web.fake_table import make

REPLACED = r"^\S+ was replaced or removed since it was opened; open or load it again$"


def write(path, table, **parents):
    with artefact.writing(path, Run(kind="features", id="A/1", code="test", versions={}, parents=parents)) as draft:
        table.write(draft.path)


def test_a_table_that_is_replaced_is_not_mixed_with_the_newer_one(tmp_path):
    """Also with one of fewer features, in which the place that is read is not there at all."""
    old = make(10, seed=0)
    write(tmp_path / "features", old)
    table = FeatureTable.open(tmp_path / "features")
    density, words = table["density"], str(table.feature(7))
    for newer in (make(10, seed=1), make(5, seed=2)):
        write(tmp_path / "features", newer)
        for read in (lambda: table["histogram"], lambda: table.row(7), lambda: table.feature(7)):
            with pytest.raises(StoreError, match=REPLACED):
                read()
        np.testing.assert_array_equal(table["density"], density)  # it was read before
    shutil.rmtree(tmp_path / "features")
    with pytest.raises(StoreError, match=REPLACED):
        table.row(7)
    write(tmp_path / "features", old)
    assert str(table.feature(7)) == words, "the same bytes lie there again, as after DVC's checkout"


def test_a_loaded_dictionary_does_not_mix_tables(tmp_path):
    with artefact.writing(tmp_path / "data/A/1/dictionary", Run(kind="dictionary", id="A/1")) as draft:
        write_dictionary(random_dictionary(n_features=10), draft.path)
    parents = {"dictionary": artefact.digest(tmp_path / "data/A/1/dictionary")}
    write(tmp_path / "data/A/1/features", make(10, seed=0), **parents)
    loaded = sae.load("A/1", tmp_path / "data")
    loaded.feature(7)
    write(tmp_path / "data/A/1/features", make(10, seed=1), **parents)
    with pytest.raises(StoreError, match=REPLACED):
        loaded.feature(7)
    again = sae.load("A/1", tmp_path / "data")
    assert str(again.feature(7)) == str(FeatureTable.open(tmp_path / "data/A/1/features").feature(7))


def test_tokens_that_are_replaced_are_not_mixed_with_newer_ones(tmp_path):
    split = make_tokens(tmp_path / "tokens").split("train")
    first = split[0:3].tokens
    make_tokens(tmp_path / "tokens", seed=1)
    for read in (lambda: split[0:3], split.sequences, lambda: list(split.batches(7))):
        with pytest.raises(StoreError, match=REPLACED):
            read()
    make_tokens(tmp_path / "tokens")
    np.testing.assert_array_equal(split[0:3].tokens, first)
    assert TokenStore.open(tmp_path / "tokens").split("train").n_contexts == split.n_contexts
