"""Where numba keeps the machine code that it makes.

numba puts it beside the sources or below the user's home, and refuses to begin where it can write to neither: an installation
that belongs to someone else, in a container with any user id. There it goes to a private folder among the temporary files, which
the next process finds again.
"""

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba

_NUMBA: Any = numba.config
"""numba's settings, which it makes of the environment: no type checker knows them."""
_PACKAGE = Path(__file__).parent
_SOURCES = (_PACKAGE / "kernels" / "native_rows.py", _PACKAGE / "storage" / "native_gather.py")
"""A source of each folder that has compiled ones."""


def keeps_beside(source: Path) -> bool:
    """Whether numba finds a place for the code of `source`."""
    found: dict[str, Any] = {}
    exec(compile("def probe(): pass", source, "exec"), found)  # numba goes by the file that a function says it is of
    try:
        numba.njit(cache=True)(found["probe"])
    except RuntimeError:  # "cannot cache function"
        return False
    return True


def private_folder(parent: Path) -> Path | None:
    """A folder below `parent` that nobody else can write to, by the sources' digest; None where there can be none."""
    sources = sorted(path for source in _SOURCES for path in source.parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    folder = parent / f"sae-{os.getuid()}-{digest}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return folder
    with suppress(OSError):  # somebody else took the name: machine code of theirs is not to be run
        return Path(tempfile.mkdtemp(prefix="sae-", dir=parent))
    return None


def _prepare() -> bool:
    """Give numba a folder if it has none; whether it may keep code at all."""
    if _NUMBA.CACHE_DIR:
        return True
    # With no home to be found numba would make a folder called `~` in the working directory.
    homeless = os.path.expanduser("~").startswith("~")
    if not homeless and all(keeps_beside(source) for source in _SOURCES):
        return True
    if homeless and all(os.access(source.parent, os.W_OK) for source in _SOURCES):
        return True
    try:
        folder = private_folder(Path(tempfile.gettempdir()))
    except FileNotFoundError:  # no temporary files either
        folder = None
    if folder is None:
        return False
    os.environ["NUMBA_CACHE_DIR"] = str(folder)  # numba reads it again whenever it changes; processes started here find it
    _NUMBA.CACHE_DIR = str(folder)
    return True


COMPILED: dict[str, Any] = {"nogil": True, "error_model": "numpy", "cache": _prepare()}
"""What all compiled functions are compiled with."""
