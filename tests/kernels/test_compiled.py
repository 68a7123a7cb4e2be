"""Machine code that numba keeps goes with the sources that it was made of, whichever of them changes."""

import pytest

from sae.kernels.compiled import forget_stale


@pytest.mark.parametrize("changed", ["instructions.py", "native_a.py"])
def test_a_change_of_any_source_removes_the_code_of_all(tmp_path, changed):
    for name in ("instructions.py", "native_a.py", "native_b.py"):
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
