"""`sae store info | verify | repair`: a damaged file is named, and mended from few contexts, or refused; never made up."""

import dataclasses
import re
import sys
import types

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sae import artefact
from sae.cli.main import app
from sae.errors import StoreError
from sae.provenance import Run
from sae.repair import repair
from sae.storage.activations import ActivationStore
from sae.storage.upkeep import verify
from tests.support.stores import make_tokens
from tests.support.toy_harvest import ByThreads, StoppedError, Stopping, bytes_of, small, threads, toy_harvest
from tests.support.toy_source import ToySource

ZARR = "activations.zarr"


class Counting(ToySource):
    n = 0

    def activations(self, tokens):
        self.n += len(tokens)
        return super().activations(tokens)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A project with a store of 40 contexts, one a batch."""
    small(monkeypatch)
    tokens = make_tokens(tmp_path / "data/tokens")
    with artefact.writing(tmp_path / "data/A/transformer", Run(kind="transformer")) as draft:
        (draft.path / "weights").write_text("toy")
    folders = (tmp_path / "data/tokens", tmp_path / "data/A/transformer")
    parents = {folder.name: artefact.digest(folder) for folder in folders}
    toy_harvest(tmp_path / "data/A/activations", tokens, parents=parents, batch_contexts=1)
    return tokens, tmp_path / "data/A/activations"


def mend(tokens, path, source=None):
    return repair(path, source or ToySource(), tokens.split("train"), tokens.bos)


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)


@pytest.mark.parametrize("how", ["flip", "unlink", "cut", "empty"])
def test_every_file_is_mended_bit_for_bit(made, how):
    tokens, path = made
    undamaged = bytes_of(path)
    names = sorted(undamaged.keys() - {"run.json"})
    # Each way to another third of the files but for the first, to save time.
    third = {"unlink": 0, "cut": 1, "empty": 2}
    for name in names[third[how] :: 3] if how in third else names:
        file = path / name
        {"flip": flip, "unlink": lambda f: f.unlink()}.get(how, lambda f: f.write_bytes(f.read_bytes()[:-3]))(file)
        if how == "empty":
            file.write_bytes(b"")
        assert [one.file for one in verify(path)] == [name]
        assert mend(tokens, path).files == [name]
        assert bytes_of(path) == undamaged
    left = {one.name for one in path.parent.iterdir() if "activations" in one.name}
    assert left == {".activations.lock", "activations"}


def test_only_contexts_with_rows_in_the_shard_are_harvested(made):
    tokens, path = made
    expected = len(np.unique(ActivationStore.open(path).origin(slice(64, 96))[:, 0]))
    assert 15 < expected < 30
    (path / ZARR / "activations/c/2/0").unlink()
    (path / ZARR / "origin/c/2/0").unlink()
    source = Counting()
    assert mend(tokens, path, source).n_contexts == source.n == expected


def test_swapped_shards_and_many_damages_at_once(made):
    tokens, path = made
    undamaged = bytes_of(path)
    a, b = (path / ZARR / "activations/c" / shard / "0" for shard in "12")
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    for shard in range(7):
        flip(path / ZARR / f"origin/c/{shard}/0")
    assert len(verify(path)) == 9
    mend(tokens, path)
    assert bytes_of(path) == undamaged


def test_it_computes_on_as_many_threads_as_the_harvest_did(made, tmp_path):
    tokens, path = made[0], tmp_path / "by_threads"
    with threads(1):
        toy_harvest(path, tokens, ByThreads())
    undamaged = bytes_of(path)
    flip(path / ZARR / "activations/c/3/0")
    with threads(2):
        mend(tokens, path, ByThreads())
        assert torch.get_num_threads() == 2
    assert bytes_of(path) == undamaged


def test_a_whole_store_needs_nothing(made):
    tokens, path = made
    assert mend(tokens, path, Stopping(0)) == ([], 0, [])


def test_another_transformer_is_refused_and_changes_nothing(made):
    tokens, path = made
    flip(path / ZARR / "activations/c/3/0")
    before = bytes_of(path)
    with pytest.raises(StoreError, match=r"c/3/0 cannot be repaired: what was made for it has sha256") as caught:
        mend(tokens, path, ToySource(seed=1))
    assert "so its transformer or its tokens are others" in str(caught.value)
    assert bytes_of(path) == before


def test_shards_with_replaced_rows_are_refused_the_others_mended(tmp_path, made):
    class Broken(ToySource):
        def activations(self, tokens):
            activations = super().activations(tokens)
            activations[tokens == 7] = float("nan")
            return activations

    tokens, _ = made
    path = tmp_path / "drop"
    toy_harvest(path, tokens, Broken(), nonfinite="drop", batch_contexts=1)
    undamaged = bytes_of(path)
    origin = ActivationStore.open(path).origin()
    spared = np.unique(np.flatnonzero(origin[:, 0] >= 40) // 32)
    assert 0 < len(spared) < 7
    for shard in range(7):
        flip(path / ZARR / f"activations/c/{shard}/0")
        if shard in spared:
            with pytest.raises(StoreError, match="took the place of one that was not finite"):
                mend(tokens, path, Broken())
            (path / ZARR / f"activations/c/{shard}/0").write_bytes(undamaged[f"{ZARR}/activations/c/{shard}/0"])
        else:
            mend(tokens, path, Broken())
    assert bytes_of(path) == undamaged


@pytest.fixture
def command(made, monkeypatch):
    door = types.ModuleType("sae.source.transformer")
    door.load_source = lambda path, device: ToySource()
    monkeypatch.setitem(sys.modules, "sae.source.transformer", door)
    return lambda word, *more: CliRunner().invoke(app, ["store", word, *map(str, more)])


def test_commands_name_and_mend_what_is_damaged(made, command):
    _, path = made
    done = command("verify", path)
    assert (done.exit_code, done.output) == (0, f"{path} is whole\n")
    flip(path / ZARR / "activations/c/3/0")
    (path / ZARR / "mean/c/0").unlink()
    (path / ZARR / "activations/c/77").write_text("stray")
    done = command("verify", path)
    assert done.exit_code == 65
    for told in ("activations/c/3/0 is damaged: sha256", "mean/c/0 is missing", "c/77 is no part", "3 files of"):
        assert told in done.output
    done = command("repair", path)
    assert done.exit_code == 65
    assert "2 files mended" in done.output
    assert "activations/c/77" in done.output
    (path / ZARR / "activations/c/77").unlink()
    assert command("verify", path).exit_code == 0


def test_repair_refuses_another_token_store(made, command, tmp_path):
    _, path = made
    make_tokens(tmp_path / "other", seed=1)
    done = command("repair", path, "--tokens", tmp_path / "other")
    assert done.exit_code == 65
    assert "was not made from" in done.output


def test_info_of_a_store(made, command):
    _, path = made
    done = command("info", path)
    assert done.exit_code == 0, done.output
    lines = {line[:10].strip(): line[10:].strip() for line in done.output.splitlines()}
    store, size = ActivationStore.open(path), sum(len(data) for data in bytes_of(path).values())
    assert lines["rows"] == "200 of 16 numbers, float16 (7.8 KiB before compression)"
    assert lines["chunks"] == "of 8 rows, 256 bytes, codec none"
    assert lines["shards"] == "7 of 4 chunks, 32 rows"
    assert f"{size / 200:.1f} bytes a row, {200 * 40 / size:.2f} times smaller" in lines["on disk"]
    norm = np.linalg.norm(store[:].astype(np.float64), axis=1).mean()
    assert float(lines["mean norm"].split(";")[0]) == pytest.approx(norm, rel=1e-4)
    assert "n_rows=200" in lines["params"]
    assert lines["made from"].startswith("tokens (")
    assert lines["dropped"].startswith("0 rows")
    assert lines["code"] == "toy"
    assert lines["device"] == f"cpu, on {torch.get_num_threads()} threads"


@pytest.mark.parametrize("joined", [False, True])
def test_info_of_an_unfinished_store(made, command, monkeypatch, tmp_path, joined):
    tokens, _ = made
    small(monkeypatch, joined=joined)
    with pytest.raises(StoppedError):
        toy_harvest(tmp_path / "acts", tokens, Stopping(3))
    for path in (tmp_path / "acts", tmp_path / "acts.partial"):
        done = command("info", path)
        assert re.search(r"harvested +3 of 6 tasks \(50 %\)", done.output), done.output
        assert re.search(r"written +0 of 7 shards", done.output)
    assert command("verify", tmp_path / "acts").exit_code == 65


def test_it_blames_what_really_changed(made, monkeypatch):
    """Of a store whose record names another processor and another numba than are here."""
    tokens, path = made
    monkeypatch.setattr("sae.repair.artefact.read_run", elsewhere_made(artefact.read_run))
    flip(path / ZARR / "activations/c/3/0")
    with pytest.raises(StoreError, match=r"processor \(torch\) AVX7, now .*; numba 0\.1, now ") as caught:
        mend(tokens, path, ToySource(seed=1))
    assert "transformer" not in str(caught.value)


def elsewhere_made(read_run):
    def read(*args, **named):
        run = read_run(*args, **named)
        return dataclasses.replace(run, processor={**run.processor, "torch": "AVX7"}, versions={**run.versions, "numba": "0.1"})

    return read
