"""Files by a glob, where what cannot be looked at is an error: Python's `glob` leaves it out without a word."""

import glob
import os
import stat
from contextlib import suppress


def files_of(pattern: str) -> list[str]:
    """The files that match, sorted; `**` is any number of folders. Raises `OSError` for a folder that cannot be listed, or a file
    that cannot be looked at."""
    _list_all(os.path.dirname(pattern))
    return [path for path in sorted(glob.glob(pattern, recursive=True)) if _is_file(path)]


def _list_all(pattern: str) -> None:
    """Every folder that matches, and all above that a wildcard of it stands for."""
    if not pattern or pattern == os.path.dirname(pattern):
        return
    _list_all(os.path.dirname(pattern))
    for folder in glob.glob(pattern, recursive=True):
        with suppress(NotADirectoryError, FileNotFoundError):
            os.scandir(folder).close()


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:  # a link that leads nowhere
        return False
