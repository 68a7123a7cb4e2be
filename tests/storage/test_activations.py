"""The activation store: every row once, in an order that is a global shuffle, and refusal of whatever is not whole."""

import dataclasses
import json
from itertools import islice

import numpy as np
import pytest
import torch

from sae import artefact
from sae.errors import ConfigError, StoreError
from sae.provenance import sha256_file
from sae.storage import activations
from sae.storage.activations import ActivationStore
from sae.storage.upkeep import describe
from tests.support.activations import small_store, write_store

D_MLP = 4


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several shards and chunks at a size that a test can hold."""
    monkeypatch.setattr(activations, "CHUNKS_MIXED", 3)


def make_store(path, n_rows=300, seed=0):
    """Row i holds i, i, i, i and comes from context i // 10, position i % 10."""
    values = np.repeat(np.arange(n_rows)[:, None], D_MLP, axis=1).astype(np.float16)
    origin = np.stack([np.arange(n_rows) // 10, np.arange(n_rows) % 10], axis=1).astype(np.uint32)
    return write_store(path, values, origin, seed=seed, chunk_rows=16, chunks_per_shard=4)


def test_every_row_once_with_its_own_origin(tmp_path):
    store = make_store(tmp_path / "store")
    rows, origin = store[0:300], store.origin()
    assert sorted(rows[:, 0]) == list(range(300))
    assert (rows == rows[:, :1]).all()
    np.testing.assert_array_equal(origin[:, 0] * 10 + origin[:, 1], rows[:, 0])


def test_order_is_a_global_shuffle(tmp_path):
    """Neighbours in the store are no likelier from the same context than chance allows, and rows travel across all shards."""
    n_rows = 2000
    store = make_store(tmp_path / "store", n_rows=n_rows)
    context = store.origin()[:, 0]
    n_together = int((context[1:] == context[:-1]).sum())
    expected = (n_rows - 1) * 9 / (n_rows - 1)
    assert abs(n_together - expected) < 4 * np.sqrt(expected)
    place = np.argsort(store[0:n_rows][:, 0])
    assert abs(np.corrcoef(place, np.arange(n_rows))[0, 1]) < 0.1


def test_seed_decides_the_order(tmp_path):
    orders = [make_store(tmp_path / str(i), seed=seed)[0:300][:, 0] for i, seed in enumerate((0, 0, 1))]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any()


def test_same_bytes_twice(tmp_path):
    digests = {artefact.digest(make_store(tmp_path / name).path) for name in ("a", "b")}
    assert len(digests) == 1


def test_batches_give_every_row_once_an_epoch_in_a_new_order(tmp_path):
    store = make_store(tmp_path / "store")
    rows = torch.cat(list(islice(store.batches(50, seed=3), 12)))[:, 0]
    first, second = rows[:300], rows[300:]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(300))
    assert not torch.equal(first, second)


def test_batches_that_do_not_divide_the_store_lose_nothing(tmp_path):
    store = make_store(tmp_path / "store")
    rows = torch.cat(list(islice(store.batches(70, seed=3), 30)))[:, 0]
    assert len(rows) == 2100
    assert (torch.bincount(rows.long()) == 7).all()


def test_batches_are_repeatable(tmp_path):
    store = make_store(tmp_path / "store")
    a, b, c = (torch.cat(list(islice(store.batches(50, seed=seed), 6))) for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_batch_larger_than_the_store_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="batches of 301 rows from a store of 300"):
        next(make_store(tmp_path / "store").batches(301))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "rows", [slice(None, None, -1), slice(250, 3, -7), slice(5, 290, 3), slice(3, 3), slice(9, 2), slice(-5, None)]
)
def test_slices_are_numpys(tmp_path, rows, dtype):
    values, origin = np.random.default_rng(0).integers(0, 99, (300, 2)).astype(np.float32), np.zeros((300, 2), np.uint32)
    store = write_store(tmp_path / "store", values, origin, dtype=dtype, chunk_rows=16, chunks_per_shard=4)
    np.testing.assert_array_equal(store[rows], store[0:300][rows])


@pytest.mark.parametrize(("name", "value"), [("start", -1), ("seed", -1), ("threads", -1), ("n_rows", 0)])
def test_numbers_that_make_no_batches_are_named(tmp_path, name, value):
    store = make_store(tmp_path / "store")
    with pytest.raises(ConfigError, match=f"'{name}' = {value!r}: must be a whole number"):
        store.batches(**{"n_rows": 8, name: value})
    with pytest.raises(ConfigError, match=f"'{name}' = {value!r}: must be a whole number"):
        store.dataset(**{"n_rows": 8, name: value})


@pytest.mark.parametrize("epochs", [0, -1])
def test_epochs_that_are_none_are_refused(tmp_path, epochs):
    with pytest.raises(ConfigError, match="'epochs'"):
        make_store(tmp_path / "store").dataset(8, epochs=epochs)


def test_missing_and_empty_files_are_refused(tmp_path):
    for damage in ("unlink", "truncate"):
        store = make_store(tmp_path / damage)
        shard = next(
            path for path in sorted((store.path / "activations.zarr" / "activations" / "c").rglob("*")) if path.is_file()
        )
        shard.unlink() if damage == "unlink" else shard.write_bytes(b"")
        with pytest.raises(StoreError, match="missing or empty"):
            ActivationStore.open(store.path)


def test_a_flipped_bit_is_noticed_on_reading(tmp_path):
    store = make_store(tmp_path / "store")
    shard = next(path for path in sorted((store.path / "activations.zarr" / "activations" / "c").rglob("*")) if path.is_file())
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="is damaged"):
        ActivationStore.open(store.path)[0:300]


def test_broken_metadata_is_refused(tmp_path):
    for name in ("zarr.json", "activations/zarr.json"):
        store = make_store(tmp_path / name.replace("/", "-"))
        (store.path / "activations.zarr" / name).write_text("{")
        with pytest.raises(StoreError, match="is damaged"):
            ActivationStore.open(store.path)


def test_a_record_without_its_facts_is_refused(tmp_path):
    store = make_store(tmp_path / "store")
    for facts in ({}, {"n_rows": 300}):
        (store.path / artefact.RUN_FILE).write_text(dataclasses.replace(store.run, facts=facts).to_json())
        with pytest.raises(StoreError, match="harvest again"):
            print(ActivationStore.open(store.path).mean_square_norm)


def test_a_store_without_its_record_is_refused(tmp_path):
    store = make_store(tmp_path / "store")
    (store.path / artefact.RUN_FILE).unlink()
    with pytest.raises(StoreError, match="unfinished or foreign"):
        ActivationStore.open(store.path)


def test_a_record_that_tells_another_number_of_rows_is_refused(tmp_path):
    store = make_store(tmp_path / "store")
    run = dataclasses.replace(store.run, facts={**store.run.facts, "n_rows": 301})
    (store.path / artefact.RUN_FILE).write_text(run.to_json())
    with pytest.raises(StoreError, match="holds 300 rows where its record says 301"):
        ActivationStore.open(store.path)


def test_a_store_is_described_from_within_it_too(tmp_path, monkeypatch):
    """The path `.` has no name, by which what lies beside a store goes."""
    store = make_store(tmp_path / "store")
    monkeypatch.chdir(store.path)
    assert dict(describe("."))["lies in"] == str(tmp_path / "store")


def rewritten(path, name, change):
    """The store, with a description that `change` edits and digests that fit it: whole, by all that its record says."""
    file = path / name
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    run = artefact.parse_run((path / artefact.RUN_FILE).read_bytes(), path, "activations")
    files = {**run.files, name: sha256_file(file)}
    facts = {**run.facts, "n_rows": 10**15}
    (path / artefact.RUN_FILE).write_text(dataclasses.replace(run, files=files, facts=facts).to_json())


@pytest.mark.parametrize(
    ("chunk_rows", "message"), [(None, "claims 1,000,000,000,000,000 rows in"), (10**15, r"claims .* bytes of numbers")]
)
def test_a_store_that_claims_more_rows_than_its_files_hold_ends_at_once(tmp_path, chunk_rows, message):
    """In one file or in many: nothing of that size is made before it is told."""
    path = small_store(tmp_path / "store")

    def claim(content):
        content["shape"][0] = 10**15
        if chunk_rows:
            content["chunk_grid"]["configuration"]["chunk_shape"][0] = 10**15

    for name in ("activations", "origin"):
        rewritten(path, f"activations.zarr/{name}/zarr.json", claim)
    if chunk_rows:
        run = artefact.read_run(path, "activations")
        files = {name: digest for name, digest in run.files.items() if "/c/1/" not in name}
        facts = {**run.facts, "chunk_rows": chunk_rows}
        (path / artefact.RUN_FILE).write_text(dataclasses.replace(run, files=files, facts=facts).to_json())
    with pytest.raises(StoreError, match=message):
        ActivationStore.open(path)


@pytest.mark.parametrize(("name", "value"), [("n_rows", 1e15), ("chunk_rows", 0), ("d_mlp", True), ("chunks_per_shard", "4")])
def test_a_layout_that_is_no_number_is_refused(tmp_path, name, value):
    path = small_store(tmp_path / "store")
    run = artefact.read_run(path, "activations")
    (path / artefact.RUN_FILE).write_text(dataclasses.replace(run, facts={**run.facts, name: value}).to_json())
    with pytest.raises(StoreError, match=f"does not describe the store .*'{name}'"):
        ActivationStore.open(path)
