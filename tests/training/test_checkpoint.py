"""Checkpoints: whole or passed over, of this run or refused, and never more than a few on disk."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch

from sae import artefact
from sae.errors import ConfigError, DiskError, LockedError
from sae.training.checkpoint import DRAFT, MARK, Checkpoints, clear_checkpoints, save_refused_batch

IDENTITY = {"configs": [{"n_features": 24, "betas": (0.9, 0.999), "seed": 0}], "data": "abc"}
NUMBERS = {"scale": 0.1 + 0.2, "nothing": None, "rows": [1, 2], "tiny": 5e-324, "not": float("inf")}


def tensors(value):
    return {"W": torch.full((3, 4), value), "n": torch.arange(5), "none": torch.zeros(0, 3)}


@pytest.fixture
def saved(tmp_path):
    """Two checkpoints, of steps 10 and 20."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", IDENTITY)
    for step in (10, 20):
        checkpoints.save(step, tensors(float(step)), {**NUMBERS, "step": step})
    return checkpoints


def names(checkpoints):
    return sorted(path.name for path in checkpoints.folder.iterdir())


def files_of(*steps):
    """Names of the mark and of the files of some checkpoints."""
    return sorted([MARK, *(f"step-{step:010d}.{end}" for step in steps for end in ("json", "safetensors"))])


def assert_is(checkpoint, step):
    assert checkpoint.step == checkpoint.numbers["step"] == step
    assert checkpoint.numbers == {**NUMBERS, "step": step}
    for name, value in tensors(float(step)).items():
        assert torch.equal(checkpoint.tensors[name], value)
        assert checkpoint.tensors[name].dtype == value.dtype


def test_round_trip(saved):
    """Tensors and numbers to the bit, the newest first; another object reads them as well."""
    assert_is(saved.latest(), 20)
    assert_is(Checkpoints(saved.folder, IDENTITY).latest(), 20)


def test_none_is_none(tmp_path):
    assert Checkpoints(tmp_path / "nowhere", IDENTITY).latest() is None
    (tmp_path / "empty").mkdir()
    assert Checkpoints(tmp_path / "empty", IDENTITY).latest() is None


def test_two_are_kept(saved):
    for step in (5000, 100_000_000_000):
        saved.save(step, tensors(float(step)), {**NUMBERS, "step": step})
    assert names(saved) == files_of(5000, 100_000_000_000)
    assert_is(saved.latest(), 100_000_000_000)


def test_no_pickle(saved):
    """Neither file starts as a pickle or a zip does, and each says what it is to a reader that knows nothing of ours."""
    for path in saved.folder.glob("step-*"):
        data = path.read_bytes()
        header = data[8 : 8 + int.from_bytes(data[:8], "little")] if path.suffix == ".safetensors" else data
        assert json.loads(header)


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.9])
def test_a_flipped_bit_falls_back_to_the_one_before(saved, suffix, place, capsys):
    path = saved.folder / f"step-0000000020.{suffix}"
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    assert_is(saved.latest(), 10)
    assert "checkpoints/step-0000000020 is damaged" in capsys.readouterr().err
    assert_is(saved.latest(), 10)
    assert capsys.readouterr().err == "", "told once: it is removed"


@pytest.mark.parametrize("n_bytes", [0, 7, 100])
@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_a_short_file_falls_back_to_the_one_before(saved, suffix, n_bytes, capsys):
    path = saved.folder / f"step-0000000020.{suffix}"
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert_is(saved.latest(), 10)
    assert "damaged" in capsys.readouterr().err


def test_a_record_that_is_json_of_something_else_is_damaged(saved, capsys):
    for text in ("[]", "{}", "3", '{"digest": "x"}'):
        (saved.folder / "step-0000000020.json").write_text(text)
        assert_is(saved.latest(), 10)
        assert "damaged" in capsys.readouterr().err


def test_missing_tensors_fall_back_to_the_one_before(saved, capsys):
    (saved.folder / "step-0000000020.safetensors").unlink()
    assert_is(saved.latest(), 10)
    assert "its tensors cannot be read" in capsys.readouterr().err


def test_all_damaged_is_none(saved, capsys):
    for path in saved.folder.glob("*.json"):
        path.write_text("{")
    assert saved.latest() is None
    assert capsys.readouterr().err.count("damaged") == 2
    assert names(saved) == [MARK]


@pytest.mark.parametrize("instant", range(6))
def test_a_kill_at_any_instant_of_writing_leaves_the_one_before(saved, instant):
    """In the middle of the tensors, before their renaming, between the two files, in the middle of the record; and what a kill of
    an older version left."""
    whole = Checkpoints(saved.folder.parent / "other", IDENTITY)
    whole.save(30, tensors(30.0), {**NUMBERS, "step": 30})
    data = (whole.folder / "step-0000000030.safetensors").read_bytes()
    record = (whole.folder / "step-0000000030.json").read_bytes()
    left = [
        {f"{DRAFT}/.tmpA2b3": data[: len(data) // 2]},
        {f"{DRAFT}/step-0000000030.safetensors": data},
        {"step-0000000030.safetensors": data},
        {"step-0000000030.safetensors": data, f"{DRAFT}/step-0000000030.json": record[: len(record) // 2]},
        {"step-0000000030.safetensors.partial": data},
        {"step-0000000030.safetensors": data, "step-0000000030.json.partial": record[: len(record) // 2]},
    ][instant]
    for name, content in left.items():
        (saved.folder / name).parent.mkdir(exist_ok=True)
        (saved.folder / name).write_bytes(content)
    assert_is(saved.latest(), 20)
    assert names(saved) == files_of(10, 20), "swept"
    saved.save(40, tensors(40.0), {**NUMBERS, "step": 40})
    assert_is(saved.latest(), 40)


def test_the_record_is_written_after_its_tensors_and_removed_before_them(saved, monkeypatch):
    order = []
    replace, unlink = os.replace, os.unlink
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(("write", b.suffix)), replace(a, b))[1])
    monkeypatch.setattr(os, "unlink", lambda path: (order.append(("remove", path.suffix)), unlink(path))[1])
    saved.save(30, tensors(30.0), {**NUMBERS, "step": 30})
    assert order == [("write", ".safetensors"), ("write", ".json"), ("remove", ".json"), ("remove", ".safetensors")]


def test_a_full_disk_is_told_and_leaves_the_ones_before(saved, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for target in ("sae.training.checkpoint.save_tensors", "sae.artefact.sync"):
        with monkeypatch.context() as patch:
            patch.setattr(target, full)
            with pytest.raises(DiskError, match="no space left"):
                saved.save(30, tensors(30.0), {**NUMBERS, "step": 30})
        assert_is(saved.latest(), 20)
        assert names(saved) == files_of(10, 20)


def test_those_of_another_run_are_refused_with_what_differs(saved):
    foreign = {"configs": [{"n_features": 24, "betas": (0.9, 0.99), "seed": 1, "l1": 2.0}], "data": None}
    with pytest.raises(ConfigError) as error:
        Checkpoints(saved.folder, foreign).latest()
    for part in (
        "configs[0].betas[1] was 0.999 and is 0.99",
        "configs[0].seed was 0 and is 1",
        "configs[0].l1 was None and is 2.0",
        "data was 'abc' and is None",
        "give another folder to start afresh",
    ):
        assert part in str(error.value)
    assert_is(saved.latest(), 20)  # nothing was removed


def test_another_number_of_dictionaries_is_another_run(saved):
    with pytest.raises(ConfigError, match="configs was \\["):
        Checkpoints(saved.folder, {"configs": IDENTITY["configs"] * 2, "data": "abc"}).latest()


def test_those_of_another_run_stay_if_asked(saved, capsys):
    """The new run begins, keeps two of its own, and is gone on with; so is the other, where it is asked for again."""
    other = Checkpoints(saved.folder, {**IDENTITY, "data": "xyz"})
    with other.locked():
        assert other.latest(leave_foreign=True) is None
        told = capsys.readouterr().err
        assert "data was 'abc' and is 'xyz'; starting afresh, and they stay there until this run is done" in told
        with pytest.raises(LockedError), saved.locked():
            pass
        for step in (1, 2, 3, 20):  # 20 is the other's name, so the next that is free is taken
            other.save(step, tensors(float(step)), {**NUMBERS, "step": step})
    assert names(saved) == files_of(3, 10, 20, 21)
    assert other.latest().numbers["step"] == 20
    assert_is(Checkpoints(saved.folder, IDENTITY).latest(), 20)
    assert_is(Checkpoints(saved.folder, IDENTITY).latest(leave_foreign=True), 20)
    clear_checkpoints(saved.folder)
    assert not saved.folder.exists()


def test_what_does_not_decide_the_result_makes_no_other_run(saved):
    def deciding(identity):
        return {"configs": identity["configs"]}

    assert Checkpoints(saved.folder, {**IDENTITY, "data": "xyz"}, deciding).latest().step == 20
    with pytest.raises(ConfigError, match="configs was"):
        Checkpoints(saved.folder, {"configs": [], "data": "abc"}, deciding).latest()


STRANGERS = ("thesis.partial", ".tmpnotes", "step-by-step.json", "step-20.json", "step-1.safetensors", ".lock", "a.json.partial")


def test_nothing_of_others_is_removed(tmp_path):
    """Whatever it is called, by no run, and not by clearing; nor what a lock would be written over."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in STRANGERS:
        (folder / name).write_text(f"mine: {name}")
    checkpoints = Checkpoints(folder, IDENTITY)
    with checkpoints.locked():
        assert checkpoints.latest() is None
        for step in (1, 2, 3):
            checkpoints.save(step, tensors(float(step)), {**NUMBERS, "step": step})
    assert_is(Checkpoints(folder, IDENTITY).latest(), 3)
    clear_checkpoints(folder)
    assert {path.name: path.read_text() for path in folder.iterdir() if path.name != MARK} == {
        name: f"mine: {name}" for name in STRANGERS
    }


@pytest.mark.parametrize("name", ["step-0000000020.json", "step-0000000020.safetensors", "step-0000000020.json.partial"])
def test_files_of_our_names_that_are_not_ours_are_refused_and_stay(tmp_path, name):
    (tmp_path / name).write_text('{"step": 20}')
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    assert checkpoints.latest() is None
    for act in (lambda: checkpoints.save(1, tensors(1.0), NUMBERS), lambda: checkpoints.locked().__enter__()):
        with pytest.raises(ConfigError, match=f"holds {name}, which this package has not written; give a folder of its own"):
            act()
    clear_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_checkpoints_of_an_older_version_are_gone_on_with(saved):
    """It made no mark."""
    (saved.folder / MARK).unlink()
    again = Checkpoints(saved.folder, IDENTITY)
    with again.locked():
        assert_is(again.latest(), 20)
        again.save(30, tensors(30.0), {**NUMBERS, "step": 30})
    assert names(again) == files_of(20, 30)


def test_what_cannot_be_read_for_now_is_not_taken_for_damage(saved, monkeypatch):
    """The system's errors say nothing of what the file holds: it stays."""

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.read_bytes", refused)
        with pytest.raises(DiskError, match="Permission denied"):
            saved.latest()
    assert_is(saved.latest(), 20)


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Checkpoints("~/checkpoints", IDENTITY).save(1, tensors(1.0), NUMBERS)
    assert names(Checkpoints(tmp_path / "checkpoints", {})) == files_of(1)


def test_another_process_is_kept_out(saved):
    code = (
        "import sys; from sae.training.checkpoint import Checkpoints\n"
        f"with Checkpoints({str(saved.folder)!r}, {{}}).locked():\n print('in', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with (
            pytest.raises(LockedError, match=r"are being trained with by process \d+; wait"),
            saved.locked(),
        ):
            pass
        other.kill()  # as hard as it gets: the lock goes with the process
    with saved.locked():
        pass


def test_clearing_leaves_nothing_but_what_others_put_there(saved):
    save_refused_batch(saved.folder, 7, torch.ones(2, 3))
    with saved.locked():
        pass
    clear_checkpoints(saved.folder)
    assert names(saved) == [MARK, "refused-batch-7.safetensors"]
    (saved.folder / "refused-batch-7.safetensors").unlink()
    clear_checkpoints(saved.folder)
    assert not saved.folder.exists()
    clear_checkpoints(saved.folder)


def test_files_are_synced_before_they_are_renamed(saved, monkeypatch):
    """Else a power cut may leave a name without content."""
    acts = []
    sync, replace = artefact.sync, os.replace
    monkeypatch.setattr(artefact, "sync", lambda path: (acts.append(("sync", path.name)), sync(path))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (acts.append(("rename", a.name)), replace(a, b))[1])
    saved.save(30, tensors(30.0), {**NUMBERS, "step": 30})
    for end in ("safetensors", "json"):
        name = f"step-0000000030.{end}"
        place = acts.index(("sync", name))
        assert acts[place + 1] == ("rename", name)
        assert acts[place + 2] == ("sync", saved.folder.name)
