"""Stores between this machine and a bucket: `push` and `pull` do what is not done yet, and compare each file.

The record is put last, and removed first where another store is replaced, so that a folder in a bucket is a whole store or
refuses to open. Of two that push to one folder the first to put the claim `<url>.claim` goes on; the other ends, and names it.
The claim holds a token that lies beside the local store too, so that who was killed finds his own and goes on; no clock is asked.
"""

import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from sae import artefact
from sae.errors import ConfigError, DiskError, LockedError, SaeError, StoreError
from sae.paths import given
from sae.provenance import Run
from sae.storage import claim
from sae.storage.bucket import CLAIM, Bucket, Stands
from sae.storage.checked import check_listed
from sae.storage.layout import layout_of
from sae.storage.linked import Linked, bucket_of, holder, link, on_threads, read_record

AT_ONCE = 4
"""Shards that are sent at the same time, each in memory."""
KIND = "activations"


class Pushed(NamedTuple):
    """What a push did."""

    n_files: int
    """Of the store."""
    n_sent: int
    """That were not there, or other than they are."""
    n_bytes: int
    """Of those that were sent."""


def push(path: str | Path, url: str, *, replace: bool = False, drop: bool = False) -> Pushed:
    """Put the store in the folder `path` at `url` too, and link the folder to it; with `drop` its shards then lie there alone,
    and are fetched when they are read.

    Sends what is not there or is damaged there. Raises `StoreError` where a file of the folder is damaged, or another store lies
    at `url` (unless it shall `replace` it), `LockedError` where another process writes here or there."""
    path, bucket = given(path), _bucket(url)
    with claim.claimed(path, None):
        run = artefact.read_run(path, KIND, made_by="dvc repro harvest")
        shards = check_listed(path, run, layout_of(path, run))
        record = (path / artefact.RUN_FILE).read_bytes()
        with _claimed(bucket, path):
            _make_room(bucket, run, record, replace)
            there, link_of = bucket.files(), Linked.of(path, run)
            lies_there = link_of is not None and link_of.url == bucket.url

            def send(name: str) -> int:
                return _send(path, run, name, bucket, there.get(name), lies_there)

            sent = on_threads(AT_ONCE, send, list(run.files), "push")
            if bucket.create(artefact.RUN_FILE, record) != record:
                raise LockedError(f"another store was put at {url} at the same time; this one is not there")
        link(path, bucket, record)
        for name in shards if drop else ():
            (path / name).unlink(missing_ok=True)
    return Pushed(len(run.files), sum(n > 0 for n in sent), sum(sent))


def pull(url: str, path: str | Path, *, record_only: bool = False) -> int:
    """Fetch the store at `url` into the folder `path`; what is there and whole stays. Returns the number of its files. With
    `record_only` shards are left to be fetched when they are read.

    Raises `StoreError` where `path` holds anything else, or where a file is damaged at `url` (then all others are there, and
    `sae store repair` may make that one anew), `DiskError` before any work where the disk is too small."""
    path, bucket = given(path), _bucket(url)
    content, run = read_record(bucket, KIND)
    layout = layout_of(path, run)
    shards = check_listed(path, run, layout)
    artefact.make_parent(path)
    with claim.claimed(path, None):
        if path.exists() and not (path / artefact.RUN_FILE).is_file() and any(path.iterdir()):
            raise StoreError(f"{path} holds something else than a store; give another folder")
        link(path, bucket, content)
        linked = Linked(path, run, bucket.url)
        names = sorted(run.files.keys() - (shards if record_only else frozenset()))
        _check_space(path, bucket, [name for name in names if not (path / name).is_file()])
        linked.have(names)
    return len(run.files)


def _bucket(url: str) -> Bucket:
    found = bucket_of(url)
    if found is None:
        raise ConfigError(f"'{url}' is no URL; it must be s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or az://CONTAINER/FOLDER")
    return found


def _send(path: Path, run: Run, name: str, bucket: Bucket, there: Stands | None, lies_there: bool) -> int:
    """Bytes that had to be sent."""
    file = path / name
    if not file.is_file() and lies_there and there is not None:
        return 0  # dropped after an earlier push
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != run.files[name]:
        raise StoreError(f"{file} is missing or damaged, and was not sent; mend it with: sae store repair {path}")
    if bucket.holds(name, there, data):
        return 0
    bucket.send(name, data)
    return len(data)


def _make_room(bucket: Bucket, run: Run, record: bytes, replace: bool) -> None:
    """Remove the record of another store, and files that this one has not."""
    try:
        standing = bucket.read(artefact.RUN_FILE)
    except FileNotFoundError:
        return
    if standing == record:
        return
    if not replace:
        raise StoreError(f"{bucket} holds another store; push to another URL, or put this one in its place with --replace")
    old = artefact.parse_run(standing, bucket.url, KIND, made_by="removing it by hand, and pushing again")
    bucket.remove(artefact.RUN_FILE, *sorted(old.files.keys() - run.files.keys()))


@contextmanager
def _claimed(bucket: Bucket, path: Path) -> Iterator[None]:
    """Within it no other process writes to `bucket`. Raises `LockedError`."""
    mark = hashlib.sha256(bucket.url.encode()).hexdigest()[:8]
    token = path.with_name(f".{path.name}.{mark}.claim")
    if not token.is_file():
        by = {"token": uuid.uuid4().hex, "process": os.getpid(), "host": socket.gethostname(), "store": str(path.resolve())}
        artefact.write_text(token, json.dumps(by))
    own = token.read_bytes()
    standing = bucket.create(CLAIM, own)
    if standing != own:
        token.unlink()
        raise LockedError(
            f"{bucket} is being written by {holder(standing)}; wait for it; if it is no more, remove {bucket}{CLAIM}"
        )
    try:
        yield
    finally:
        with suppress(SaeError, FileNotFoundError):
            if bucket.read(CLAIM) == own:
                bucket.remove(CLAIM)
                token.unlink()


def _check_space(path: Path, bucket: Bucket, names: list[str]) -> None:
    there = bucket.files() if names else {}
    needed, free = sum(there[name].size for name in names if name in there), shutil.disk_usage(path).free
    if needed > free:
        raise DiskError(
            f"{bucket} needs {needed / 2**30:.1f} GiB more, {free / 2**30:.1f} GiB are free on the disk of {path}; free some, or "
            "give another folder"
        )
