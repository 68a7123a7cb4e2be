"""How the step's loops are compiled, and when what was compiled before is out of date.

numba keeps machine code beside the source, and makes it anew when that file changes. But what is compiled holds constants and
instructions of other files too: after a change of `instructions` alone (a `git pull`, say) the old code would go on running, with
another layout than its callers'. So the code of all of them goes when one of them changes.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from sae import machine_code, processor

FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}
"""Lets sums be vectorised; without `nnan` and `ninf`, so that comparisons with NaN and infinity stay what they are."""
COMPILED: dict[str, Any] = {**machine_code.COMPILED, "fastmath": FAST_MATH}


def forget_stale(folder: Path) -> bool:
    """Remove numba's files below `folder` unless they are of the sources that lie there now; whether it did. Where nothing can be
    written numba keeps its files elsewhere, and an installation that root has made changes all sources at once."""
    sources = sorted(
        [
            folder / "instructions.py",
            folder / "assembly.py",
            Path(__file__),
            Path(processor.__file__),
            *folder.glob("native_*.py"),
        ]
    )
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    stamp = folder / "__pycache__" / "native.sha256"
    with suppress(OSError):
        if stamp.is_file() and stamp.read_text(encoding="ascii") == digest:
            return False
        stamp.parent.mkdir(exist_ok=True)
        for pattern in ("native_*.nbi", "native_*.nbc"):
            for file in stamp.parent.glob(pattern):
                file.unlink(missing_ok=True)
        stamp.write_text(digest, encoding="ascii")
        return True
    return False


forget_stale(Path(__file__).parent)
