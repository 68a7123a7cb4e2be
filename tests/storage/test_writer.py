"""What a writer that is killed, or not alone, must not do: lose work that is done, mix plans, or meet another at one file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sae import artefact, exchange
from sae.errors import LockedError, StoreError
from sae.storage import ended
from sae.storage.activations import ActivationStore
from sae.storage.layout import Layout
from sae.storage.permutation import Permutation
from sae.storage.pieces import Piece, Sums, fields_of, write_piece
from sae.storage.share import Share
from sae.storage.upkeep import describe
from tests.support.stores import make_tokens
from tests.support.toy_harvest import StoppedError, Stopping, bytes_of, small, toy_harvest
from tests.support.toy_source import ToySource


@pytest.fixture
def tokens(tmp_path):
    return make_tokens(tmp_path / "tokens")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    small(monkeypatch)


@pytest.fixture
def undisturbed(tmp_path, tokens):
    toy_harvest(tmp_path / "whole", tokens)
    return bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("n", [1, 2, 3, 1000, 4097])
def test_a_permutation_can_be_turned_round(n):
    place = Permutation(n, seed=3)
    np.testing.assert_array_equal(np.sort(place(np.arange(n))), np.arange(n))
    np.testing.assert_array_equal(place.inverse(place(np.arange(n))), np.arange(n))


@pytest.mark.parametrize(
    ("places", "whole"),
    [
        ([[1, 3, 4], [0, 2, 5]], True),
        ([[], [0, 1, 2, 3, 4, 5]], True),
        ([[1, 3], [0, 2, 5]], False),
        ([[1, 3, 5], [0, 2, 5]], False),
    ],
)
def test_pieces_make_up_a_shard_or_do_not(tmp_path, places, whole):
    layout = Layout(6, 3, chunk_rows=6, chunks_per_shard=1)
    pieces = []
    for i, mine in enumerate(places):
        records = np.zeros(len(mine), layout.record)
        records["place"], records["origin"][:, 1], records["values"][:, 0] = mine, mine, mine
        write_piece(tmp_path / str(i), layout, "plan", records, Sums.of(torch.zeros(len(mine), 3)))
        pieces.append(Piece(tmp_path / str(i), layout, "plan"))
    found = fields_of(pieces, 0, layout)
    assert (found is not None) == whole
    if found is not None:
        np.testing.assert_array_equal(found["origin"], [[0, i] for i in range(6)])
        np.testing.assert_array_equal(found["values"], [[i, 0, 0] for i in range(6)])


def test_who_is_killed_while_sweeping_has_nothing_left_to_do(tmp_path, tokens, undisturbed, monkeypatch):
    def stopped(target):
        (tmp_path / "acts.partial/pieces/00002").unlink()
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(ended, "sweep", stopped)
        with pytest.raises(StoppedError):
            toy_harvest(tmp_path / "acts", tokens)
    told = dict(describe(tmp_path / "acts"))
    assert "unfinished" not in told
    assert told["left over"].endswith("acts.partial; the next harvest removes them")
    assert toy_harvest(tmp_path / "acts", tokens, Stopping(0), share=Share(0, 2))
    assert (tmp_path / "acts.partial").exists()
    assert toy_harvest(tmp_path / "acts", tokens, Stopping(0))
    assert bytes_of(tmp_path / "acts") == undisturbed
    left = {path.name for path in tmp_path.iterdir() if "acts" in path.name}
    assert left == {".acts.lock", "acts"}


def test_who_is_killed_at_the_very_end_of_sweeping_has_nothing_left_to_do(tmp_path, tokens, undisturbed):
    toy_harvest(tmp_path / "acts", tokens)
    (tmp_path / "acts.partial").mkdir()
    assert toy_harvest(tmp_path / "acts", tokens, Stopping(0))
    assert bytes_of(tmp_path / "acts") == undisturbed
    assert not (tmp_path / "acts.partial").exists()


def test_what_was_left_over_goes_with_the_next_plan(tmp_path, tokens, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ended, "sweep", lambda target: None)
        toy_harvest(tmp_path / "acts", tokens)
    assert toy_harvest(tmp_path / "acts", tokens, seed=1, keep=True), "it is no unfinished work"
    assert not (tmp_path / "acts.partial").exists()
    with monkeypatch.context() as patch:
        patch.setattr(ended, "sweep", lambda target: None)
        toy_harvest(tmp_path / "acts", tokens)
    ended.sweep_left_over(tmp_path / "acts")
    assert not (tmp_path / "acts.partial").exists()


def test_a_store_that_was_removed_after_its_commit_is_made_again(tmp_path, tokens, undisturbed, monkeypatch):
    """Killed between the exchange and the removal of the old store, which then lies where the new one was written."""
    toy_harvest(tmp_path / "acts", tokens, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(ended, "sweep", lambda target: None)
        patch.setattr(artefact, "discard", lambda folder: None)
        toy_harvest(tmp_path / "acts", tokens)
    shutil.rmtree(tmp_path / "acts")
    assert not ended.is_left_over(tmp_path / "acts")
    assert toy_harvest(tmp_path / "acts", tokens)
    assert bytes_of(tmp_path / "acts") == undisturbed


def test_a_link_to_a_larger_disk_stays_one(tmp_path, tokens, undisturbed):
    """All of the work lies there too."""
    large, link = tmp_path / "large", tmp_path / "data/acts"
    link.parent.mkdir()
    link.symlink_to(large / "acts")
    with pytest.raises(StoreError, match=r"is a link to .*large is not there; mount its disk, or remove the link"):
        toy_harvest(link, tokens)
    large.mkdir()
    with pytest.raises(StoppedError):
        toy_harvest(link, tokens, Stopping(5), seed=1)
    assert (large / "acts.partial/pieces").is_dir()
    assert dict(describe(link))["lies in"] == str(large / "acts.partial")
    for seed in (1, 0):
        assert toy_harvest(link, tokens, seed=seed)
        assert link.is_symlink()
        assert [path.name for path in link.parent.iterdir()] == ["acts"]
        assert {path.name for path in large.iterdir()} == {"acts", ".acts.lock"}
    assert bytes_of(large / "acts") == undisturbed


@pytest.mark.parametrize("system", ["exchanges", "does not"])
def test_an_old_store_is_there_whole_or_not_at_all(tmp_path, tokens, undisturbed, monkeypatch, system):
    toy_harvest(tmp_path / "acts", tokens, seed=1)
    remove, seen = shutil.rmtree, []
    if system == "does not":
        monkeypatch.setattr(exchange, "exchange", lambda one, other: False)

    def half(path, **given):
        if (Path(path) / "mean").exists():
            seen.append(Path(path).parent.name)
            raise StoppedError
        remove(path, **given)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half)
        with pytest.raises(StoppedError):
            toy_harvest(tmp_path / "acts", tokens)
    assert seen == [{"exchanges": "store", "does not": "acts.old.partial"}[system]]
    assert bytes_of(tmp_path / "acts") == undisturbed
    assert toy_harvest(tmp_path / "acts", tokens, Stopping(0))
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]


def test_a_share_that_comes_after_the_commit_does_nothing(tmp_path, tokens):
    toy_harvest(tmp_path / "acts", tokens)
    assert toy_harvest(tmp_path / "acts", tokens, Stopping(0), share=Share(1, 2))
    assert not (tmp_path / "acts.partial").exists()
    with pytest.raises(StoppedError):
        toy_harvest(tmp_path / "acts", tokens, Stopping(0), seed=1, share=Share(1, 2))


def test_shares_of_another_number_are_refused_while_one_is_at_work(tmp_path, tokens):
    class Second(ToySource):
        def activations(self, batch):
            with pytest.raises(LockedError, match=f"in 3 shares, not 2, by process {os.getpid()}"):
                toy_harvest(tmp_path / "acts", tokens, share=Share(1, 2))
            with pytest.raises(LockedError, match="shard 0/3 of"):
                toy_harvest(tmp_path / "acts", tokens, share=Share(0, 3))
            return super().activations(batch)

    assert not toy_harvest(tmp_path / "acts", tokens, Second(), share=Share(0, 3))
    assert not toy_harvest(tmp_path / "acts", tokens, share=Share(1, 2))


class StopsAsAnother(Stopping):
    """Other activations than those of the undisturbed harvest."""

    def activations(self, tokens):
        return super().activations(tokens) * 2


def test_pieces_of_another_plan_are_never_taken(tmp_path, tokens, undisturbed):
    """A run that was discarding them was killed when it had removed their plan, and a share came next."""
    with pytest.raises(StoppedError):
        toy_harvest(tmp_path / "acts", tokens, StopsAsAnother(5), parents={"data/A/transformer": "another"})
    (tmp_path / "acts.partial/plan.json").unlink()
    done = toy_harvest(tmp_path / "acts", tokens, share=Share(0, 1))
    assert done or toy_harvest(tmp_path / "acts", tokens)
    assert bytes_of(tmp_path / "acts") == undisturbed


@pytest.mark.parametrize("how", ["swapped", "duplicated"])
def test_pieces_that_changed_places_are_made_again(tmp_path, tokens, undisturbed, how):
    with pytest.raises(StoppedError):
        toy_harvest(tmp_path / "acts", tokens, Stopping(5))
    a, b = (tmp_path / "acts.partial/pieces" / name for name in ("00001", "00002"))
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    if how == "swapped":
        b.write_bytes(first)
    toy_harvest(tmp_path / "acts", tokens)
    assert bytes_of(tmp_path / "acts") == undisturbed


@pytest.mark.parametrize("name", ["activations", "origin"])
def test_shards_that_changed_places_are_noticed_on_reading(tmp_path, tokens, name):
    toy_harvest(tmp_path / "acts", tokens)
    a, b = (tmp_path / "acts/activations.zarr" / name / "c" / shard / "0" for shard in "12")
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    store = ActivationStore.open(tmp_path / "acts")
    assert store[:32].shape == (32, 16)
    with pytest.raises(StoreError, match=f"{name}/c/1/0 is damaged .chunk 0: its checksum"):
        _ = (store[0:64], store.origin())


def test_a_record_in_which_a_bit_turned_is_refused(tmp_path, tokens):
    toy_harvest(tmp_path / "acts", tokens)
    record = tmp_path / "acts/run.json"
    text = record.read_text()
    at = text.index('"mean_square_norm": ') + len('"mean_square_norm": ')
    record.write_text(text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :])
    with pytest.raises(StoreError, match="its own sha256 differs"):
        ActivationStore.open(tmp_path / "acts")


def test_a_record_without_the_digest_of_a_shard_is_refused(tmp_path, tokens):
    toy_harvest(tmp_path / "acts", tokens)
    store = ActivationStore.open(tmp_path / "acts")
    del store.run.files["activations.zarr/origin/c/3/0"]
    (tmp_path / "acts/run.json").write_text(store.run.to_json())
    with pytest.raises(StoreError, match=r"no digest of activations\.zarr/origin/c/3/0"):
        ActivationStore.open(tmp_path / "acts")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_five_lines_of_the_docs_read_it(tmp_path, tokens, dtype):
    """Run as they stand in docs/store.md, by another process: this one may not import zarr."""
    toy_harvest(tmp_path / "data/A/activations", tokens, dtype=dtype)
    text = (Path(__file__).parents[2] / "docs/store.md").read_text(encoding="utf-8")
    lines = text.split("```python\n")[1].split("```")[0]
    assert sum(bool(line) for line in lines.splitlines()) == 5
    lines += "np.savez('read.npz', rows=rows.astype(np.float32), context=context, position=position)\n"
    subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, check=True)
    read, store = np.load(tmp_path / "read.npz"), ActivationStore.open(tmp_path / "data/A/activations")
    np.testing.assert_array_equal(read["rows"], store[:].astype(np.float32))
    np.testing.assert_array_equal(np.stack([read["context"], read["position"]], 1), store.origin())
