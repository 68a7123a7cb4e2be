"""Shares of a pass, read apart, written and merged, beside the pass in one; the budget of memory."""

import dataclasses
import itertools
import re

import numpy as np
import pytest

from sae.errors import ConfigError, StoreError
from sae.features import budget
from sae.features import part as parts_module
from sae.features.budget import Budget
from sae.features.collect import collect
from sae.features.config import FeaturesConfig
from sae.features.part import merge, read
from sae.features.part_store import open_parts, write_part
from sae.features.side_by_side import Side
from sae.features.table import COLUMNS
from sae.provenance import Run
from sae.storage import tokens as token_store
from sae.storage.share import Share
from tests.features.toy import assert_alike, dense, random_dictionary, setup

CONFIG = FeaturesConfig(
    n_tokens=10**6,
    n_top=6,
    n_intervals=4,
    examples_per_interval=2,
    window=3,
    logit_min_count=0,
    contexts_per_batch=4,
    other="A/0",
)
INEXACT = {"neuron_correlated_values"}
"""Of float64 sums in another order; all else is the same to the bit."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    source, dictionary, tokens = setup(tmp_path_factory.mktemp("parts"), n_heldout=30)
    other = Side("A/0", source, random_dictionary(n_features=9, seed=4))
    shares = [read(source, dictionary, tokens, CONFIG, share=Share(i, 3), other=other) for i in range(3)]
    return source, dictionary, tokens, other, shares, collect(source, dictionary, tokens, CONFIG, other=other)


def assert_same(table, expected):
    for name in COLUMNS:
        if name in INEXACT:
            np.testing.assert_array_max_ulp(table[name], expected[name], maxulp=1)
        else:
            np.testing.assert_array_equal(table[name], expected[name], err_msg=name)
    assert table.info == expected.info


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_shares_in_any_order_are_the_whole(made, order):
    source, dictionary, tokens, _, shares, whole = made
    assert [list(part.contexts) for part in shares] == [list(range(8)), list(range(8, 20)), list(range(20, 30))]
    assert_same(collect(source, dictionary, tokens, CONFIG, parts=[shares[i] for i in order]), whole)


def test_a_merged_part_holds_what_fired_in_order(made):
    source, dictionary, tokens, other, shares, _ = made
    whole, merged = read(source, dictionary, tokens, CONFIG, other=other), merge(shares[::-1], CONFIG)
    for a, b in ((merged.firings, whole.firings), (merged.other, whole.other)):
        for name in ("feature", "token", "value", "start"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    contexts = tokens.split("heldout")[0:30]
    x, f, _ = dense(source, dictionary, contexts)
    assert merged.n_tokens == len(f)
    np.testing.assert_array_equal(merged.firings.n_active, (f > 0).sum(0))
    shift = parts_module.first_mean(source, tokens.split("heldout"), 30, CONFIG).numpy()
    np.testing.assert_allclose(merged.products[0:24], f.T @ (x - shift), rtol=1e-4, atol=1e-3)


def test_batches_that_cross_the_stores_blocks_are_shared_too(made, monkeypatch):
    """Where a block of the token store is no whole number of batches, a batch ends with it."""
    source, dictionary, tokens, other, *_ = made
    monkeypatch.setattr(token_store, "CHUNK_CONTEXTS", 10)
    parts = [read(source, dictionary, tokens, CONFIG, share=Share(i, 4), other=other) for i in range(4)]
    assert [part.contexts.start for part in parts] == [0, 8, 14, 20]
    assert_same(
        collect(source, dictionary, tokens, CONFIG, parts=parts), collect(source, dictionary, tokens, CONFIG, other=other)
    )


def test_missing_and_doubled_shares_are_told(made, monkeypatch):
    *_, shares, _ = made
    with pytest.raises(ConfigError, match="they end at context 20 of 30"):
        merge(shares[:2], CONFIG)
    for wrong in (shares[1:], [*shares, shares[1]]):
        with pytest.raises(ConfigError, match=r"not all shares of one pass: contexts .*8 to 20 of 30"):
            merge(wrong, CONFIG)
    monkeypatch.setattr("sae.features.firings.BYTES_EACH", 10**4)
    with pytest.raises(ConfigError, match=r"memory_mb leaves 0\.9 for what fires"):
        merge(shares, dataclasses.replace(CONFIG, memory_mb=1))
    alone = dataclasses.replace(shares[0], limit=shares[0].contexts.stop)
    with pytest.raises(ConfigError, match=r"memory_mb leaves 0\.9 for what fires"):
        merge([alone], dataclasses.replace(CONFIG, memory_mb=1))


def test_written_and_read_back(made, tmp_path):
    source, dictionary, tokens, _, shares, whole = made
    run = Run(kind="features", params={"a": 1})
    for i in (1, 2, 0):
        write_part(shares[i], tmp_path, Share(i, 3), run)
    found = open_parts(tmp_path, run)
    assert found.keys() == {Share(0, 3), Share(1, 3), Share(2, 3)}
    assert_same(collect(source, dictionary, tokens, CONFIG, parts=list(found.values())), whole)
    with pytest.raises(StoreError, match="0-of-3 was made with other params"):
        open_parts(tmp_path, dataclasses.replace(run, params={"a": 2}))
    write_part(shares[0], tmp_path, Share(0, 2), run)
    with pytest.raises(StoreError, match="shares of different passes"):
        open_parts(tmp_path, run)


def test_sums_of_neurons_are_held_for_as_many_features_as_memory_allows(made, monkeypatch):
    source, dictionary, tokens, other, _, whole = made
    sizes = []
    monkeypatch.setattr(Budget, "of", lambda *_: Budget(16 * 8 * 24 * 50, 7 * 8 * 16, 7))
    monkeypatch.setattr(budget, "CHUNK_FEATURES", 5)
    monkeypatch.setattr("sae.features.firings.BYTES_EACH", 1)
    plain = type(dictionary).encode
    monkeypatch.setattr(type(dictionary), "encode", lambda self, x: sizes.append(x.shape[0]) or plain(self, x))
    table = collect(source, dictionary, tokens, CONFIG, other=other)
    assert max(sizes) <= 133, "rows at a time: 1,200 entries of the narrower dictionary"
    assert_alike(table, whole, source, dictionary, tokens.split("heldout")[0:30])


def test_the_budget_is_divided():
    mib = 2**20
    narrow, wide = (Budget.of(dataclasses.replace(CONFIG, memory_mb=64), n, d_mlp=512) for n in (4096, 10**6))
    assert (narrow.n_held, narrow.sums, narrow.working, narrow.firings) == (4096, 16 * mib, 8 * mib, 40 * mib)
    assert (wide.n_held, wide.sums, wide.firings) == (4096, 16 * mib, 40 * mib)
    with pytest.raises(
        ConfigError, match=r"features\.memory_mb = 1 is too little for .*512 features over 512 neurons.*raise it to 46"
    ):
        Budget.of(dataclasses.replace(CONFIG, memory_mb=1), 10**6, d_mlp=512)
    assert narrow.entries == mib // 2
    large = Budget.of(FeaturesConfig(), 131_072, d_mlp=512)
    assert large.n_held == 131_072, "all, of 2 GiB"
    for made, n, size in ((large, 10_000, 4096), (narrow, 1200, 512)):
        blocks = list(made.blocks(CONFIG if made is large else FeaturesConfig(), n, 512))
        assert [block.start for block in blocks] == list(range(0, n, size))
        assert [block.stop for block in blocks] == [*range(size, n, size), n]


@pytest.mark.parametrize(("n_features", "d_mlp"), [(24, 16), (700, 16), (24, 2048), (700, 2048), (131_072, 16_384)])
def test_the_least_memory_holds_the_sums_of_what_is_made_at_a_time(n_features, d_mlp):
    with pytest.raises(ConfigError, match="raise it to") as told:
        Budget.of(dataclasses.replace(CONFIG, memory_mb=1, n_top=500), n_features, d_mlp)
    least = int(re.search(r"raise it to ([\d,]+)", str(told.value))[1].replace(",", ""))
    made = dataclasses.replace(CONFIG, memory_mb=least, n_top=500)
    held = Budget.of(made, n_features, d_mlp)
    assert held.n_held >= max(block.stop - block.start for block in held.blocks(made, n_features, d_mlp))
    assert held.firings > 0


def test_both_dictionaries_share_the_budget(made, monkeypatch):
    """What fires in the other one is held as well."""
    source, dictionary, tokens, other, *_ = made
    one = read(source, dictionary, tokens, CONFIG)
    assert one.other is None
    monkeypatch.setattr("sae.features.firings.BYTES_EACH", Budget.of(CONFIG, 24, 16).firings // (len(one.firings.token) + 9))
    read(source, dictionary, tokens, CONFIG)
    with pytest.raises(ConfigError, match=r"features\.memory_mb leaves .* for what fires, which is spent after"):
        read(source, dictionary, tokens, CONFIG, other=other)


@pytest.mark.parametrize("share", [Share(0, 1), Share(1, 2)])
def test_what_the_error_of_a_spent_budget_advises_is_enough(made, monkeypatch, share):
    """For the whole pass, with both dictionaries, also where a share or the first batch finds it out."""
    source, dictionary, tokens, other, *_ = made
    monkeypatch.setattr("sae.features.firings.BYTES_EACH", 2000)
    small = dataclasses.replace(CONFIG, memory_mb=1)
    with pytest.raises(ConfigError, match="raise memory_mb by") as told:
        read(source, dictionary, tokens, small, share=share, other=other)
    more = int(re.search(r"raise memory_mb by ([\d,]+)", str(told.value))[1].replace(",", ""))
    percent = float(re.search(r"n_tokens to (\S+)%", str(told.value))[1])
    assert 2 < more < 30
    assert percent > 5
    n_tokens = 30 * tokens.split("heldout").context_length
    for enough in (
        dataclasses.replace(CONFIG, memory_mb=1 + more),
        dataclasses.replace(small, n_tokens=int(n_tokens * percent / 100)),
    ):
        shares = [read(source, dictionary, tokens, enough, share=Share(i, 2), other=other) for i in range(2)]
        merge(shares, enough)


def test_most_correlated_features_are_exact(made):
    source, dictionary, tokens, other, _, table = made
    contexts = tokens.split("heldout")[0:30]
    (_, f, _), (_, g, _) = (dense(source, each, contexts) for each in (dictionary, other.dictionary))
    for name, second, own in (("feature", f, True), ("other", g, False)):
        ids, values = table[f"{name}_correlated_ids"], table[f"{name}_correlated_values"]
        for i in range(24):
            alive = [j for j in range(second.shape[1]) if second[:, j].any() and not (own and j == i)]
            if not f[:, i].any():
                assert ids[i].tolist() == [-1] * 5
                assert not values[i].any()
                continue
            r = {j: np.corrcoef(f[:, i], second[:, j])[0, 1] for j in alive}
            best = sorted(r.values(), reverse=True)[:5]
            chosen = [j for j in ids[i].tolist() if j >= 0]
            assert len(set(chosen)) == len(best)
            assert ids[i].tolist() == chosen + [-1] * (5 - len(best))
            np.testing.assert_allclose([r[j] for j in chosen], best, atol=2e-5)  # of two that tie either is right
            np.testing.assert_allclose(values[i][: len(best)], best, atol=2e-5)
    assert table.info.other == "A/0"
