"""Loading, training and stores where neither the sources nor a home can be written to; and how such a process ends."""

import os
import shutil
import subprocess
import sys

import pytest

import sae
from tests.features.toy import random_dictionary
from tests.import_graph import ROOT
from tests.support.activations import small_store

# Root may write anywhere, unless that right is given up.
IS_ROOT = os.getuid() == 0
AS_ANYBODY = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if IS_ROOT else []
PATIENCE = 600
USE = """
import os, sys
install, given, out = sys.argv[1:]
sys.path.insert(0, install)
import sae
assert sae.__file__.startswith(install)
for folder in (install, os.environ["HOME"]):
    try:
        open(os.path.join(folder, "probe"), "w")
    except OSError:
        continue
    raise SystemExit(f"{folder} can be written to")
loaded = sae.load(f"{given}/dictionary")
store = sae.ActivationStore.open(f"{given}/store")
rows = store[:]
assert rows.shape == (100, 4)
trained = sae.train(store, n_features=8, steps=3, batch_size=32)
sae.save(trained, f"{out}/mine")
assert (sae.load(f"{out}/mine").W_dec == trained.W_dec).all()
assert loaded.encode(trained.b_dec[None]).shape == (1, 24)
"""


@pytest.fixture
def install(tmp_path):
    """The package, belonging to somebody else."""
    folder = tmp_path / "install"
    shutil.copytree(ROOT / "sae", folder / "sae", ignore=shutil.ignore_patterns("__pycache__"))
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for each in folders:
        each.chmod(0o555)
    yield folder
    for each in folders:
        each.chmod(0o755)


@pytest.mark.skipif(IS_ROOT and not shutil.which("setpriv"), reason="root can give up its rights with setpriv only")
@pytest.mark.parametrize("home", ["missing", pytest.param("unwritable", marks=pytest.mark.slow)])
def test_loading_training_and_stores_in_an_install_that_cannot_be_written_to(install, tmp_path, home):
    sae.save(random_dictionary(d_mlp=4), tmp_path / "given/dictionary")
    small_store(tmp_path / "given/store")
    (tmp_path / "out").mkdir()
    (tmp_path / "tmp").mkdir()
    at_home = tmp_path / "unwritable"
    at_home.mkdir(mode=0o555)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "PYTHONPATH"))}
    environment |= {"HOME": str(at_home / "nobody" if home == "missing" else at_home), "TMPDIR": str(tmp_path / "tmp")}
    command = [*AS_ANYBODY, sys.executable, "-c", USE, *(str(tmp_path / name) for name in ("install", "given", "out"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-3000:]}"
    (folder,) = (tmp_path / "tmp").glob("sae-*")
    assert folder.stat().st_mode & 0o077 == 0
    assert list(folder.rglob("*.nbi")), "machine code was kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "install", "out", "tmp", "unwritable"], "no folder '~'"


STARVED = """
import atexit, sys, threading, time
import numpy as np
from sae.storage import arrays
from zarr.core import sync
array = arrays.write_array(arrays.create_group(sys.argv[1]), "a", np.arange(64.0), ("row",), chunk_rows=1)
begun = threading.Event()
def read():
    while True:
        assert array[:].sum() == 2016
        begun.set()
threading.Thread(target=read, daemon=True).start()
begun.wait()
if sys.argv[2] == "as zarr ends it":
    atexit.unregister(arrays.end_loop)
sync.loop[0].call_soon_threadsafe(time.sleep, 0.6)  # what the loop is at cannot be ended in the 0.2 s that zarr's hook gives it
print("right", flush=True)
"""


@pytest.mark.parametrize("end", ["as zarr ends it", "as we do"])
def test_a_starved_process_that_still_reads_chunks_ends_without_a_word(tmp_path, end):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", STARVED, str(tmp_path / "a.zarr"), end]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "right\n")
    if end == "as we do":
        assert done.stderr == ""
    else:
        assert "RuntimeError: Cannot close a running event loop" in done.stderr, "the mend is needed no more"
