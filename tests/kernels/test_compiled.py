"""Machine code that numba keeps goes with the sources that it was made of, whichever of them changes."""

import os
import subprocess
import sys

import pytest

from sae.kernels.compiled import forget_stale


@pytest.mark.parametrize("changed", ["instructions.py", "assembly.py", "native_a.py"])
def test_a_change_of_any_source_removes_the_code_of_all(tmp_path, changed):
    for name in ("instructions.py", "assembly.py", "native_a.py", "native_b.py"):
        (tmp_path / name).write_text("X = 1")
    assert forget_stale(tmp_path)
    kept = [tmp_path / "__pycache__" / name for name in ("native_a.f-1.py311.nbi", "native_b.g-1.py311.1.nbc", "other.nbi")]
    for file in kept:
        file.write_text("code")
    assert not forget_stale(tmp_path)
    assert all(file.is_file() for file in kept)
    (tmp_path / changed).write_text("X = 2")
    assert forget_stale(tmp_path)
    assert [file.is_file() for file in kept] == [False, False, True], "what is not ours stays"


def test_compiled_now_or_before_it_gives_the_same_bits(tmp_path):
    """In a process that compiles, and in the next one, which finds the machine code in numba's cache: where a compiled function
    called another that sums, each process took another copy of that one."""
    program = (
        "import hashlib, numpy as np\n"
        "from sae.kernels.native_ablation import loss_changes\n"
        "rng = np.random.default_rng(0)\n"
        "n, width, vocab = 200, 64, 700\n"
        "shapes = (n, width), (n, vocab), (9, width), (9, vocab), (vocab,)\n"
        "given = [rng.standard_normal(shape, np.float32) for shape in shapes]\n"
        "feature, target, changes = rng.integers(0, 9, n).astype(np.uint16), rng.integers(0, vocab, n), np.zeros(n)\n"
        "loss_changes(0, n, np.arange(n), feature, rng.random(n, np.float32), *given, target, 1e-5, True, changes)\n"
        "print(hashlib.sha256(changes.tobytes()).hexdigest())\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    found = [subprocess.check_output([sys.executable, "-c", program], env=environment) for _ in range(2)]
    assert found[0] == found[1]
    assert list(tmp_path.rglob("*.nbc"))
