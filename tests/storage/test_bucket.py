"""Stores in a bucket, against a real S3 server on loopback, and against one that fails as it is told."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from itertools import islice

import numpy as np
import pytest
import torch
import zarr
from obstore.store import S3Store
from typer.testing import CliRunner

from pipelines import harvest as harvest_stage
from pipelines.common import Stage
from sae import artefact
from sae.cli.main import app
from sae.errors import ConfigError, DiskError, LockedError, MissingExtraError, StoreError, UnavailableError
from sae.harvest import HarvestConfig
from sae.provenance import Run
from sae.storage import bucket as bucket_module
from sae.storage import linked, transfer
from sae.storage.activations import ActivationStore
from sae.storage.bucket import CLAIM, Bucket, Stands
from sae.storage.transfer import pull, push
from sae.storage.upkeep import describe, verify
from sae.training.data import Feed
from sae.training.fit import train
from tests.support.activations import small_store, write_store
from tests.support.s3 import flipped
from tests.support.stores import make_tokens
from tests.support.toy_harvest import bytes_of, small
from tests.support.toy_source import ToySource

N_ROWS = 100  # of `whole`
SHARDS = [f"activations.zarr/{name}/c/{i}/0" for name in ("activations", "origin") for i in range(2)]


def put(url, name, data):
    Bucket(url).send(name, data)


def without_link(files):
    return {name: data for name, data in files.items() if name != "url"}


def test_a_bucket_holds_the_bytes_of_the_disk_and_gives_them_back(door, whole, tmp_path):
    before = bytes_of(whole)
    done = push(whole, door.url)
    assert (done.n_files, done.n_sent, done.n_bytes) == (9, 9, sum(map(len, before.values())) - len(before["run.json"]))
    assert door.stored(door.url) == before
    assert pull(door.url, tmp_path / "again") == 9
    assert without_link(bytes_of(tmp_path / "again")) == before


def test_read_from_a_bucket_is_as_from_the_disk_and_fetched_once(door, whole):
    push(whole, door.url)
    local = ActivationStore.open(whole)
    door.asked.clear()
    for _ in range(2):
        store = ActivationStore.open(door.url)
        assert (store.n_rows, store.d_mlp, store.run) == (N_ROWS, 4, local.run)
        np.testing.assert_array_equal(store[70:80], local[70:80])
        assert sum("activations/c/" in line for line in door.asked) == 1
    for ours, theirs in zip(islice(store.batches(32, seed=3), 12), local.batches(32, seed=3), strict=False):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    np.testing.assert_array_equal(store.origin(), local.origin())
    times = Counter(line for line in door.asked if "/c/" in line and "mean" not in line)
    assert len(times) == 4
    assert set(times.values()) == {1}


def test_any_zarr_reader_opens_it_in_the_bucket(door, whole):
    push(whole, door.url)
    _, _, name, prefix = door.url.split("/", 3)
    there = S3Store(name, prefix=f"{prefix}/activations.zarr", client_options={"allow_http": True})
    group = zarr.open_group(zarr.storage.ObjectStore(there, read_only=True), mode="r")
    np.testing.assert_array_equal(np.asarray(group["activations"][:]), ActivationStore.open(whole)[:])


def test_training_sees_no_difference(door, whole):
    push(whole, door.url)
    feeds = [Feed(ActivationStore.open(place), 32, seed=0) for place in (door.url, whole)]
    assert len({feed.mean_square_norm for feed in feeds}) == 1
    seen = [torch.cat([feed.first(), *(feed.next() for _ in range(7)), *feed.others(2)]) for feed in feeds]
    assert torch.equal(*seen)


@pytest.mark.slow
def test_training_from_a_bucket(door, whole):
    push(whole, door.url)
    expected = train(ActivationStore.open(whole), n_features=8, batch_size=32, steps=20)
    for cache in (True, False):
        found = train(ActivationStore.open(door.url, cache=cache), n_features=8, batch_size=32, steps=20)
        assert torch.equal(found.W_dec, expected.W_dec)


def test_a_shard_that_is_not_as_committed_is_never_read(door, whole):
    push(whole, door.url)
    files, rows = door.stored(door.url), ActivationStore.open(whole)[0:10]
    first, second = SHARDS[:2]
    damages = [
        {first: flipped(files[first])},
        {first: files[second], second: files[first]},
        {first: b""},
        {first: None},
    ]
    for damage in damages:
        shutil.rmtree(os.environ["SAE_CACHE"], ignore_errors=True)
        for name, content in damage.items():
            Bucket(door.url).remove(name) if content is None else Bucket(door.url).send(name, content)
        store = ActivationStore.open(door.url)
        with pytest.raises(StoreError, match=r"activations/c/0/0 is (missing|damaged).*push the store again"):
            store[0:10]
        with pytest.raises(StoreError):
            next(store.batches(N_ROWS))
        assert {one.file for one in verify(door.url)} == damage.keys()
        assert push(whole, door.url).n_sent == len(damage)
        np.testing.assert_array_equal(store[0:10], rows)
    assert verify(door.url) == []


def test_a_small_file_that_is_damaged_is_found_on_opening(door, whole):
    push(whole, door.url)
    name = "activations.zarr/activations/zarr.json"
    put(door.url, name, door.stored(door.url)[name].replace(b"16", b"17"))
    with pytest.raises(StoreError, match=r"activations/zarr.json is damaged"):
        ActivationStore.open(door.url)
    put(door.url, "run.json", door.stored(door.url)["run.json"].replace(b"100", b"101"))
    with pytest.raises(StoreError, match=r"run.json is damaged"):
        ActivationStore.open(door.url)


def test_what_a_damaged_cache_holds_is_fetched_again(door, whole):
    push(whole, door.url)
    store = ActivationStore.open(door.url)
    rows = store[:]
    shard = store.path / SHARDS[0]
    shard.write_bytes(flipped(shard.read_bytes()))
    np.testing.assert_array_equal(ActivationStore.open(door.url)[:], rows)


def test_nothing_there_and_unfinished_are_told_apart(door, whole, monkeypatch):
    with pytest.raises(StoreError, match="nothing lies there"):
        ActivationStore.open(door.url)
    monkeypatch.setattr(Bucket, "create", lambda self, name, data: data if name == CLAIM else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        push(whole, door.url)
    assert set(door.stored(door.url)) == set(bytes_of(whole)) - {"run.json", "url"}
    for opening in (ActivationStore.open, verify, describe):
        with pytest.raises(StoreError, match=f"{door.url} has no run.json: its upload was given up"):
            opening(door.url)


def test_the_record_is_sent_last_and_only_what_is_not_there(door, whole):
    push(whole, door.url)
    puts = [line for line in door.asked if line.startswith("PUT")]
    assert puts[0].endswith(CLAIM)
    assert puts[-1].endswith("run.json")
    door.asked.clear()
    assert push(whole, door.url) == (9, 0, 0)
    assert [line for line in door.asked if line.startswith("PUT") and not line.endswith((CLAIM, "run.json"))] == []


PUSHER = """
import sys
from datetime import timedelta
from sae.storage import linked, transfer
transfer.AT_ONCE = 1
transfer.push(sys.argv[1], sys.argv[2])
"""


def test_interrupted_it_goes_on_where_it_was(door, whole, monkeypatch):
    """As if killed while the fourth file is sent: the claim stays, and another one cannot take its place."""
    n_left = [3]

    def send(self, name, data, whole=Bucket.send):
        if not n_left[0]:
            raise KeyboardInterrupt
        n_left[0] -= 1
        whole(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "AT_ONCE", 1)
        patch.setattr(Bucket, "send", send)
        patch.setattr(Bucket, "remove", lambda self, *names: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            push(whole, door.url)
    with pytest.raises(StoreError, match=f"its upload, by process {os.getpid()} on .*, has not ended"):
        ActivationStore.open(door.url)
    other = small_store(whole.with_name("other"), seed=1)
    with pytest.raises(LockedError, match=f"written by process {os.getpid()} on .*, from {whole}; wait for it; if it is no more"):
        push(other, door.url)
    assert push(whole, door.url).n_sent == 9 - 3
    assert door.stored(door.url) == without_link(bytes_of(whole))
    assert door.stored(door.url + CLAIM) == {}
    assert [path.name for path in whole.parent.iterdir() if path.name.endswith(CLAIM)] == []


@pytest.mark.slow
@pytest.mark.parametrize("n", range(1, 11))
def test_killed_it_goes_on_where_it_was(door, whole, n):
    """The `n`-th file is held back on its way, and its sender killed."""
    door.faults.extend([("PUT", "")] * n + [("PUT", "silence")])
    sender = subprocess.Popen([sys.executable, "-c", PUSHER, str(whole), door.url])
    while sum(line.startswith("PUT") for line in door.asked) <= n:
        time.sleep(0.01)
    sender.send_signal(signal.SIGKILL)
    sender.wait()
    door.faults.clear()
    with pytest.raises(StoreError, match=f"its upload, by process {sender.pid} on .*, from {whole}, has not ended"):
        ActivationStore.open(door.url)
    other = small_store(whole.with_name("other"), seed=1)
    with pytest.raises(LockedError, match=f"written by process {sender.pid} on"):
        push(other, door.url)
    done = push(whole, door.url)
    assert done.n_sent == max(0, 9 - (n - 1))
    assert door.stored(door.url) == without_link(bytes_of(whole))
    assert door.stored(door.url + CLAIM) == {}
    assert sorted(path.name for path in whole.parent.iterdir() if path.name.endswith(CLAIM)) == []


def test_of_two_writers_one_wins(door, whole):
    other = small_store(whole.with_name("other"), seed=1)
    gate, ended = threading.Barrier(2), {}

    def run(path):
        gate.wait()
        try:
            ended[path] = push(path, door.url).n_sent
        except (LockedError, StoreError) as error:
            ended[path] = type(error)

    threads = [threading.Thread(target=run, args=(path,)) for path in (whole, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [path for path, how in ended.items() if how == 9]
    assert door.stored(door.url) == without_link(bytes_of(winner))


def test_another_store_is_replaced_only_when_asked(door, whole, tmp_path):
    push(whole, door.url)
    values = np.ones((40, 4), np.float16)
    write_store(tmp_path / "small", values, np.zeros((40, 2), np.uint32), chunk_rows=16, chunks_per_shard=4)
    before = door.stored(door.url)
    with pytest.raises(StoreError, match=r"holds another store.*--replace"):
        push(tmp_path / "small", door.url)
    assert door.stored(door.url) == before
    reader = ActivationStore.open(door.url)
    push(tmp_path / "small", door.url, replace=True)
    assert door.stored(door.url) == without_link(bytes_of(tmp_path / "small"))
    with pytest.raises(StoreError, match="damaged, or of another store"):
        reader[0:40]
    assert (ActivationStore.open(door.url)[:] == 1).all()


def test_a_damaged_file_is_not_sent(door, whole):
    shard = whole / SHARDS[1]
    shard.write_bytes(flipped(shard.read_bytes()))
    with pytest.raises(StoreError, match=r"c/1/0 is missing or damaged, and was not sent.*sae store repair"):
        push(whole, door.url)
    assert set(door.stored(door.url)) == set(bytes_of(whole)) - {SHARDS[1], "run.json"}


def test_dropped_shards_are_read_from_the_bucket(door, whole):
    before = bytes_of(whole)
    rows = ActivationStore.open(whole)[:]
    assert push(whole, door.url, drop=True).n_sent == 9
    assert set(bytes_of(whole)) == set(before) - set(SHARDS) | {"url"}
    assert push(whole, door.url, drop=True).n_sent == 0
    assert all(one.why.startswith(f"is not here, but in {door.url}") for one in verify(whole))
    assert dict(describe(whole))["linked to"] == f"{door.url}; 4 files lie there alone"
    np.testing.assert_array_equal(ActivationStore.open(whole)[:], rows)
    assert pull(door.url, whole) == 9
    assert without_link(bytes_of(whole)) == before


def test_pull_refuses_what_is_in_the_way(door, whole, tmp_path, monkeypatch):
    push(whole, door.url)
    other = small_store(tmp_path / "other", seed=1)
    with pytest.raises(StoreError, match="is another store than"):
        pull(door.url, other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("keep")
    with pytest.raises(StoreError, match="holds something else"):
        pull(door.url, tmp_path / "mine")
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: os.terminal_size((0, 0)) and type("Usage", (), {"free": 10}))
    with pytest.raises(DiskError, match="GiB are free"):
        pull(door.url, tmp_path / "fresh")


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_faults_on_the_way_are_outlived(door, whole, tmp_path, monkeypatch, method):
    """Each kind, once and twice in a row."""
    for module in (transfer, linked):
        monkeypatch.setattr(module, "AT_ONCE", 1)
    if method == "GET":
        push(whole, door.url)
    kinds = ["500", "503", "reset", "cut"]
    door.faults.extend((method, fault) for kind in kinds for fault in (kind, "", kind, kind, ""))
    if method == "PUT":
        push(whole, door.url)
    pull(door.url, tmp_path / "again")
    pull(door.url, tmp_path / "more")
    assert not door.faults
    assert door.stored(door.url) == without_link(bytes_of(tmp_path / "again")) == without_link(bytes_of(whole))


def test_silence_is_outlived(door, monkeypatch):
    monkeypatch.setitem(bucket_module.RETRIES, "max_retries", 20)  # a slow machine's own silences come on top
    monkeypatch.setattr(bucket_module, "TIMEOUT", timedelta(seconds=0.5))
    door.faults.extend([("PUT", "silence"), ("GET", "silence")])
    Bucket(door.url).send("a", b"content")
    assert Bucket(door.url).read("a") == b"content"
    assert not door.faults


@pytest.mark.parametrize("fault", ["reset", "lost", "500"])
def test_a_file_is_created_by_one_alone_whatever_is_lost(door, fault):
    """`lost`: the server has done it, but its answer does not come."""
    bucket = Bucket(door.url)
    door.faults.append(("PUT", fault))
    assert bucket.create("x", b"first") == b"first"
    door.faults.append(("PUT", fault))
    assert bucket.create("x", b"other") == b"first"
    assert door.stored(door.url) == {"x": b"first"}


def test_a_listing_is_whole(door):
    bucket = Bucket(door.url)
    for i in range(3):
        bucket.send(f"a/{i}", b"1" * i)
    door.faults.append(("list-type", "cut"))
    assert {name: one.size for name, one in bucket.files().items()} == {"a/0": 0, "a/1": 1, "a/2": 2}
    assert Bucket(door.url[:-1]).files() == {}


def test_what_arrived_is_compared_with_what_was_sent(door):
    bucket = Bucket(door.url)
    door.faults.append(("PUT", "turn"))
    with pytest.raises(StoreError, match=r"x is not what was sent to it, and was removed"):
        bucket.send("x", b"content")
    assert door.stored(door.url) == {}
    bucket.send("x", b"content")
    opaque = Stands(7, '"no-md5-1"')  # of an encrypted bucket, or of Azure's
    assert bucket.holds("x", opaque, b"content")
    assert not bucket.holds("x", opaque, b"CONTENT")


def test_what_is_turned_on_the_way_is_found(door, whole):
    push(whole, door.url)
    store = ActivationStore.open(door.url)
    door.faults.append(("activations/c/0/0", "flip"))
    with pytest.raises(StoreError, match="damaged"):
        store[0:10]
    np.testing.assert_array_equal(store[0:10], ActivationStore.open(whole)[0:10])
    assert not list(store.path.rglob("*.partial"))


@pytest.mark.parametrize("fault", ["500", "reset"])
def test_a_service_that_fails_for_good_is_given_up(door, whole, fault):
    door.faults.extend([("", fault)] * 100)
    with pytest.raises(UnavailableError, match=f"{door.url} cannot be reached"):
        ActivationStore.open(door.url)
    assert len(door.asked) == 4


def test_refusals_say_what_to_do(door, whole, monkeypatch):
    push(whole, door.url)
    cases = [("403", "access denied.*AccessDenied.*AWS_ACCESS_KEY_ID"), ("301", "another region.*AWS_REGION")]
    for fault, told in cases:
        for action in (lambda: ActivationStore.open(door.url), lambda: push(whole, door.url), lambda: Bucket(door.url).files()):
            door.faults.append(("", fault))
            with pytest.raises(StoreError, match=f"{door.url}.*{told}") as raised:
                action()
            assert "a-secret" not in str(raised.value)
    for action in (ActivationStore.open, lambda url: push(whole, url)):
        with pytest.raises(StoreError, match=r"there is no bucket 'no-such'.*make it"):
            action("s3://no-such/activations")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="cannot be reached"):
        ActivationStore.open(door.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1")
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL"):
        ActivationStore.open(door.url)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UnavailableError, match=r"no credentials were found.*set AWS_ACCESS_KEY_ID"):
        ActivationStore.open(door.url)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # where a machine of AWS's finds them
    with pytest.raises(UnavailableError, match="no credentials were found"):
        ActivationStore.open(door.url)
    for url in ("s3://bucket", "ftp://bucket/x", "az:///x"):
        with pytest.raises(ConfigError, match="must be s3://BUCKET/FOLDER"):
            ActivationStore.open(url)
    monkeypatch.setattr(bucket_module, "obstore", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sae-pipeline\[cloud\]'"):
        ActivationStore.open(door.url)


def test_a_forked_process_says_that_it_cannot(door, whole, monkeypatch):
    """obstore's threads are not in it: it would wait for ever."""
    push(whole, door.url)
    store = ActivationStore.open(door.url)
    monkeypatch.setitem(bucket_module._PROCESS, "id", -1)  # as in a fork, which may copy a lock that a thread holds
    with pytest.raises(StoreError, match="forked"):
        store[0:10]


def test_commands(door, whole, tmp_path):
    def run(*words):
        result = CliRunner().invoke(app, ["store", *map(str, words)])
        return result.exit_code, " ".join(result.output.split())

    code, told = run("push", whole, door.url)
    assert (code, told.startswith(f"{door.url} is whole: 9 of 9 files sent")) == (0, True)
    assert run("verify", door.url) == (0, f"{door.url} is whole")
    there, here = (dict(describe(place)) for place in (door.url, whole))
    assert there.pop("lies in") == door.url
    assert here.pop("lies in") == str(whole)
    assert here.pop("linked to") == f"{door.url}; 0 files lie there alone"
    assert there == here | {"on disk": there["on disk"]}
    assert run("info", door.url)[0] == 0
    assert run("pull", "--record-only", door.url, tmp_path / "light")[0] == 0
    assert len(bytes_of(tmp_path / "light")) == 7
    code, told = run("repair", door.url)
    assert (code, "pull it into a folder" in told) == (78, True)
    put(door.url, SHARDS[0], b"wrong")
    put(door.url, "stray", b"mine")
    code, told = run("verify", door.url)
    assert code == 65
    assert f"{door.url}/{SHARDS[0]} is damaged" in told
    assert f"{door.url}/stray is no part of the store" in told
    assert json.loads(door.stored(door.url)["run.json"])["kind"] == "activations"
    assert artefact.digest(tmp_path / "light") == artefact.digest(whole)


def test_the_harvest_stage_puts_its_store_there(door, tmp_path, monkeypatch):
    """Killed while it pushes, it goes on pushing; the train stage then finds the store by its record."""
    monkeypatch.chdir(tmp_path)
    small(monkeypatch)
    make_tokens(tmp_path / "data/tokens")
    with artefact.writing(tmp_path / "data/A/transformer", Run(kind="transformer")) as draft:
        (draft.path / "weights").write_text("toy")
    monkeypatch.setattr(harvest_stage, "load_source", lambda path, device: ToySource())
    config = {"n_rows": 200, "positions_per_context": 5, "batch_contexts": 7}
    stage = Stage("harvest", {"run": {"bucket": door.url.removesuffix("A/activations"), "device": "cpu"}, "harvest": config})
    with monkeypatch.context() as patch:
        patch.setattr(harvest_stage, "push", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            harvest_stage.main(stage)
    with monkeypatch.context() as patch:
        patch.setattr(harvest_stage, "harvest", lambda *args, **options: 1 / 0)
        harvest_stage.main(stage)
    stored = door.stored(door.url)
    assert stored == without_link(bytes_of(stage.activations))
    assert artefact.read_run(stage.activations, "activations").params == vars(stage.section("harvest", HarvestConfig))
    harvest_stage.main(Stage("harvest", {"run": {"device": "cpu"}, "harvest": config}))
    assert without_link(bytes_of(stage.activations)) == stored
