"""The one door to obstore: a folder of files in a bucket, of S3 and what speaks like it, Google Cloud Storage, or Azure.

Endpoint and credentials come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS,
AZURE_STORAGE_ACCOUNT_NAME ...) and are never printed. obstore repeats what failed on the way (5xx, a connection that is cut,
silence) and takes a download up where it broke off; what it does not repeat, listings cut in the middle and puts that must not
replace anything, is repeated here.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from sae.errors import ConfigError, MissingExtraError, StoreError, UnavailableError

try:
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError
    from obstore.store import from_url
except ModuleNotFoundError:  # optional
    obstore = None

VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY",
}
"""The schemes, and where each looks for its credentials."""
RETRIES: dict[str, Any] = {
    "max_retries": 6,
    "backoff": {"init_backoff": timedelta(seconds=0.25), "max_backoff": timedelta(seconds=10), "base": 2},
    "retry_timeout": timedelta(minutes=10),
}
"""Some 16 s in all, before a bucket is given up."""
TIMEOUT = timedelta(minutes=5)
"""For one request with all that it carries: a shard of 128 MiB at 0.5 MB/s."""
TRIES = 3
PART = 2**22
"""Bytes of a download that are handed on at once."""
_PROCESS: dict[str, int] = {}
"""The process whose threads obstore uses. In one forked from it even a new client waits for them for ever (obstore 0.12.1), and
may end the other with SIGSEGV: both wait on one epoll, which tells the one of the other's connections."""
CLAIM = ".claim"
"""A name for the file that lies beside the folder, as no part of it: `<url>.claim`."""


class Stands(NamedTuple):
    """A file in a bucket."""

    size: int
    e_tag: str
    """The service's own mark of the content: of S3 and its like mostly, but not always, its MD5."""


class Bucket:
    """The files below `url` by their names relative to it. Nothing is asked of the service before the first method.

    Every method raises `StoreError` for what the service refuses (no such bucket, no rights, another region), and
    `UnavailableError` where it gives no answer, or no credentials are there; a file that is not there is `FileNotFoundError`."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        found = re.fullmatch(r"(s3|gs|az)://([^/]+)/(.*[^/])", self.url)
        if not found:
            raise ConfigError(f"'{url}': must be s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or az://CONTAINER/FOLDER")
        self.scheme, self.bucket, self._prefix = found.groups()
        if obstore is None:
            raise MissingExtraError(
                f"{url} needs the package 'obstore', which is not installed; run: pip install 'sae-pipeline[cloud]'"
            )
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
            if not re.match("https?://[^/]|$", os.environ.get(name, "")):  # obstore panics
                raise ConfigError(f"{name} in the environment is '{os.environ[name]}': must be http://HOST or https://HOST")
        with self._told():
            options = {"allow_http": True, "timeout": TIMEOUT}  # http:// only where an endpoint of the environment says so
            self._store: Any = from_url(f"{self.scheme}://{self.bucket}", client_options=options, retry_config=RETRIES)

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> tuple[type["Bucket"], tuple[str]]:
        """A worker that is sent one makes its own from its own environment: no credentials are written anywhere."""
        return Bucket, (self.url,)

    def read(self, name: str) -> bytes:
        """All of a file."""
        return b"".join(self._parts(name))

    def part(self, name: str, start: int, size: int) -> memoryview:
        """`size` bytes of a file from `start` on; fewer where it ends before."""
        with self._told():
            return memoryview(obstore.get_range(self._store, self._key(name), start=start, length=size))

    def sha256(self, name: str) -> str:
        """Hex digest of a file, which is read to its end."""
        digest = hashlib.sha256()
        for part in self._parts(name):
            digest.update(part)
        return digest.hexdigest()

    def fetch(self, name: str, to: Path) -> str:
        """Write a file's bytes to `to`; returns their sha256."""
        digest = hashlib.sha256()
        with open(to, "wb") as file:
            for part in self._parts(name):
                digest.update(part)
                file.write(part)
        return digest.hexdigest()

    def files(self) -> dict[str, Stands]:
        """All that is there."""
        for left in reversed(range(TRIES)):
            try:
                with self._told():
                    found = [entry for entries in obstore.list(self._store, self._prefix) for entry in entries]
                break
            except UnavailableError:
                if not left:
                    raise
        cut = len(self._prefix) + 1
        return {entry["path"][cut:]: Stands(entry["size"], entry["e_tag"] or "") for entry in found}

    def send(self, name: str, data: bytes) -> None:
        """Put a file there, whatever was; what arrived is compared with what was sent. Raises `StoreError` where it differs."""
        with self._told():
            put = obstore.put(self._store, self._key(name), data, use_multipart=False)
        if not self.holds(name, Stands(len(data), put["e_tag"] or ""), data):
            self.remove(name)
            raise StoreError(f"{self.url}/{name} is not what was sent to it, and was removed; run again")

    def holds(self, name: str, stands: Stands | None, data: bytes) -> bool:
        """Whether a file is `data`: by its MD5 where the service tells it, else it is read back."""
        if stands is None or stands.size != len(data):
            return False
        if stands.e_tag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest():
            return True
        return self.sha256(name) == hashlib.sha256(data).hexdigest()

    def create(self, name: str, data: bytes) -> bytes:
        """Put a file there unless there is one; returns what then stands there. Of several who do so at once one wins."""
        for left in reversed(range(TRIES)):
            try:
                with self._told():
                    obstore.put(self._store, self._key(name), data, mode="create", use_multipart=False)
                return data
            except (FileExistsError, UnavailableError) as error:  # the latter may have done it, all the same
                try:
                    return self.read(name)
                except FileNotFoundError:
                    if not left:
                        raise error from None
                time.sleep(RETRIES["backoff"]["init_backoff"].total_seconds())
        raise AssertionError("unreachable")

    def remove(self, *names: str) -> None:
        """Remove files; those that are not there are no error."""
        for name in names:
            try:
                with self._told():
                    obstore.delete(self._store, self._key(name))
            except FileNotFoundError:
                continue

    def _parts(self, name: str) -> Iterator[bytes]:
        with self._told():
            for part in obstore.get(self._store, self._key(name)).stream(min_chunk_size=PART):
                yield bytes(part)

    def _key(self, name: str) -> str:
        return f"{self._prefix}{CLAIM}" if name == CLAIM else f"{self._prefix}/{name}"

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Within it obstore's errors become ours."""
        if _PROCESS.setdefault("id", os.getpid()) != os.getpid():
            raise StoreError(
                f"{self.url} was asked for in a process forked from one that has used a bucket, where its threads are missing: "
                "take dataset.loader(), start workers with multiprocessing_context='spawn', or fetch the store first, with: sae "
                "store pull"
            )
        try:
            yield
        except AlreadyExistsError:
            raise FileExistsError(self.url) from None
        except (BaseError, FileNotFoundError) as error:
            raise self._error(str(error), isinstance(error, FileNotFoundError)) from None

    def _error(self, text: str, absent: bool) -> Exception:
        cause, variables = _cause(text), VARIABLES[self.scheme]
        if "NoSuchBucket" in text or "ContainerNotFound" in text:
            return StoreError(
                f"{self.url}: there is no bucket '{self.bucket}' where the environment says ({variables}); make it, or correct "
                "the URL or the environment"
            )
        if absent:
            return FileNotFoundError(f"{self.url}: {cause}")
        if "redirect without LOCATION" in text:
            return StoreError(f"{self.url}: the bucket is in another region than was asked; set AWS_REGION to it")
        if re.search("api/token|token request|security-credentials|Missing|must be specified", text):
            return UnavailableError(f"{self.url}: no credentials were found ({cause}); set {variables}")
        if re.search("status code: 40[13]", text):
            return StoreError(
                f"{self.url}: access denied ({cause}); the credentials ({variables}) must be right, and allow to list and read "
                "there, to write also to put and delete"
            )
        return UnavailableError(f"{self.url} cannot be reached ({cause}); check the network and the endpoint, and run again")


def _cause(text: str) -> str:
    """What a service said, in one line, without addresses' queries: they may be signed."""
    told = re.findall(r"<(?:Code|Message)>([^<]*)</", text)
    if told:
        return ": ".join(told[:2])
    line = " ".join(text.partition("Debug source")[0].split())
    return re.sub(r"\?\S*", "", re.sub(r"<.*>", "", line)).strip()
