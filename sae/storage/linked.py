"""A store that lies in a bucket is read through a folder: its record and small files are fetched when it is opened, a shard when
rows of it are first read, and each stays there.

So a byte comes over the network once, however many epochs, processes or runs read it; it is compared with its digest while it
comes, and then read as from any disk. Where the disk has no room for that, `ranged` does without.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from sae import artefact
from sae.errors import ConfigError, StoreError
from sae.paths import given
from sae.progress import track
from sae.provenance import Run, sha256_file
from sae.storage.bucket import CLAIM, Bucket

T = TypeVar("T")
LINK = "url"
"""The file, no part of a store, that names where what is missing beside it lies."""
AGAIN = "push the store again, from where it is whole"
NO_CACHE = "none"
"""As `SAE_CACHE`: shards are not kept, but read by ranges (`ranged`)."""
AT_ONCE = 8
"""Files, or ranges of them, that are under way at the same time; one connection to S3 gives some 80 MB/s."""


def bucket_of(path: str | Path) -> Bucket | None:
    """The bucket that `path` names, also where it went through `Path`, which writes `s3:/`; None for a path of this machine."""
    found = re.match(r"(\w\w+):/+", str(path))
    if found is None:
        return None
    return Bucket(f"{found[1]}://{str(path)[found.end() :]}")


def refuse_url(path: str | Path) -> None:
    """For what is done in a folder alone."""
    bucket = bucket_of(path)
    if bucket:
        raise ConfigError(f"{bucket} is not repaired in its place: pull it into a folder, repair it there, and push it again")


def read_record(bucket: Bucket, kind: str) -> tuple[bytes, Run]:
    """The run.json of the artefact in a bucket, as text and as what it says. Raises `StoreError` where there is none."""
    try:
        content = bucket.read(artefact.RUN_FILE)
    except FileNotFoundError:
        try:
            why = f"its upload, by {holder(bucket.read(CLAIM))}, has not ended"
        except FileNotFoundError:
            why = "its upload was given up" if bucket.files() else "nothing lies there"
        raise StoreError(
            f"{bucket} has no {artefact.RUN_FILE}: {why}; check the URL, or put a store there with: sae store push PATH {bucket}"
        ) from None
    return content, artefact.parse_run(content, bucket.url, kind, made_by=f"sae store push PATH {bucket}")


def holder(claimed: bytes) -> str:
    """Who put a claim (`transfer`) on a folder in a bucket."""
    try:
        by = json.loads(claimed)
        return f"process {by['process']} on {by['host']}, from {by['store']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def folder_of(path: str | Path, kind: str = "activations") -> Path:
    """Where the artefact `path` is read: `path` itself, or for a URL a folder below `$SAE_CACHE` (by default ~/.cache/sae), named
    by the digest of its record, which holds what was read before."""
    bucket = bucket_of(path)
    if bucket is None:
        return given(path)
    content, _ = read_record(bucket, kind)
    folder = _cache() / f"{kind}-{hashlib.sha256(content).hexdigest()[:24]}"
    link(folder, bucket, content)
    return folder


def _cache() -> Path:
    named = os.environ.get("SAE_CACHE")
    if not named or named == NO_CACHE:  # the small files still want a place
        named = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "sae")
    return given(named)


def link(folder: Path, bucket: Bucket, content: bytes) -> None:
    """Let `folder` be the store in `bucket`, whose record is `content`; files that are missing in it are fetched when needed.
    Raises `StoreError` where it is another one."""
    with _lock(folder, "link"):
        record = folder / artefact.RUN_FILE
        if record.is_file() and record.read_bytes() != content:
            raise StoreError(f"{folder} is another store than {bucket}; give another folder, or remove it")
        artefact.write_text(folder / LINK, bucket.url + "\n")
        if not record.is_file():
            artefact.write_text(record, content.decode())


class Linked:
    """The files of a store's folder, those that are missing fetched from the bucket that its link names."""

    def __init__(self, folder: Path, run: Run, url: str):
        self.folder, self.run, self.url = folder, run, url

    @classmethod
    def of(cls, folder: Path, run: Run) -> "Linked | None":
        """None for a folder that has no link, whose files are all that there is."""
        try:
            return cls(folder, run, (folder / LINK).read_text(encoding="utf-8").strip())
        except FileNotFoundError:
            return None

    @cached_property
    def bucket(self) -> Bucket:
        return Bucket(self.url)

    def have(self, names: Iterable[str]) -> None:
        """The files `names` are there and as committed when this returns; one that another thread or process fetches is waited
        for. Raises `StoreError` for those that are damaged in the bucket too, when all others are there; `DiskError` and
        `UnavailableError` at once."""
        on_threads(AT_ONCE, self._have, list(names))

    def _have(self, name: str) -> None:
        file, expected = self.folder / name, self.run.files[name]
        with _lock(self.folder, name):
            if file.is_file() and sha256_file(file) == expected:
                return
            with artefact.replacing(file) as partial:
                try:
                    found = self.bucket.fetch(name, partial)
                except FileNotFoundError:
                    raise StoreError(f"{self.url}/{name} is missing; {AGAIN}") from None
                if found != expected:
                    raise StoreError(
                        f"{self.url}/{name} is damaged, or of another store: sha256 {found}, committed as {expected}; {AGAIN}"
                    )


def on_threads(n: int, action: Callable[[str], T], names: Sequence[str], label: str = "fetch") -> list[T]:
    """What `action` gives for each of `names`, on `n` threads. A `StoreError` is raised when all others are done, with their
    number; any other error at once, and what was not begun is left."""
    found, wrong = [], []
    with ThreadPoolExecutor(n) as threads:
        for one in track([threads.submit(action, name) for name in names], label, len(names)):
            try:
                found.append(one.result())
            except StoreError as error:
                wrong.append(error)
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise
    if wrong:
        raise StoreError(f"{wrong[0]}{f' (and {len(wrong) - 1} more like it)' if len(wrong) > 1 else ''}")
    return found


def _lock(folder: Path, name: str) -> AbstractContextManager[None]:
    """One fetches a file; who waits finds it there."""
    locks = folder.with_name(f".{folder.name}.fetch")
    locks.mkdir(parents=True, exist_ok=True)
    return artefact.locked(locks / name.replace("/", "-"), f"{folder / name} is being fetched", wait=True)
