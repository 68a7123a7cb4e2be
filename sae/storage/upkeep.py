"""What a store is, how far an unfinished one has come, and which of its files are no longer what was committed."""

import errno
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from sae import artefact
from sae.errors import SaeError, StoreError, raise_if_of_disk
from sae.paths import given
from sae.provenance import Run, sha256_file
from sae.storage import ended
from sae.storage.bucket import Bucket
from sae.storage.checked import check_listed
from sae.storage.layout import Layout, layout_of
from sae.storage.linked import LINK, Linked, bucket_of, read_record

MADE_BY = "dvc repro harvest"


class Damage(NamedTuple):
    """A file of a store that is not as it was committed."""

    file: str
    """Below the store's folder."""
    why: str


def verify(path: str | Path) -> list[Damage]:
    """Every file of the store in a folder or at a URL compared with its digest, on as many threads as there are cores; files that
    are no part of the store too.

    Raises `StoreError` where there is no record to compare with, `UnavailableError` where a bucket gives no answer."""
    bucket = bucket_of(path)
    path = path if bucket else given(path)
    _, run = _record(path, bucket)
    check_listed(path, run, layout_of(path, run))
    linked = None if bucket else Linked.of(Path(path), run)
    missing = f"is not here, but in {linked.url}; fetch it with: sae store pull" if linked else "is missing"

    def compare(name: str) -> Damage | None:
        digest = functools.partial(bucket.sha256, name) if bucket else functools.partial(sha256_file, Path(path) / name)
        return _damage(name, digest, run.files[name], missing)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(compare, run.files))
    there = bucket.files().keys() if bucket else _files_below(Path(path))
    strays = sorted(there - run.files.keys() - {artefact.RUN_FILE, LINK})
    return [one for one in found if one] + [Damage(name, "is no part of the store") for name in strays]


def _record(path: str | Path, bucket: Bucket | None) -> tuple[bytes, Run]:
    if bucket:
        return read_record(bucket, "activations")
    run = artefact.read_run(path, "activations", made_by=MADE_BY)
    return (Path(path) / artefact.RUN_FILE).read_bytes(), run


def _damage(name: str, digest: Callable[[], str], expected: str, missing: str) -> Damage | None:
    try:
        actual = digest()
    except FileNotFoundError:
        return Damage(name, missing)
    except SaeError:
        raise
    except OSError as error:
        if error.errno != errno.EIO:  # that is of this file's place on the disk: what is damaged can be mended
            raise_if_of_disk(error, f"reading {name}")
        return Damage(name, f"cannot be read: {error}")
    return None if actual == expected else Damage(name, f"is damaged: sha256 {actual}, committed as {expected}")


def named(path: str | Path) -> Path:
    """Where a store lies, its path ending in its name, which that of `.` does not: what lies beside it goes by that."""
    path = given(path)
    return artefact.real(path if path.name not in ("", "..") else path.resolve())


def describe(path: str | Path) -> list[tuple[str, str]]:
    """All that is worth knowing of a store (or its URL), or of an unfinished one, as labels and values. Reads no rows."""
    bucket = bucket_of(path)
    if bucket:
        content, run = _record(path, bucket)
        sizes = [there.size for there in bucket.files().values()]
        return [*_whole(layout_of(bucket.url, run), run, sum(sizes), content), ("lies in", bucket.url)]
    path = named(path)
    partial = artefact.partial_of(path)
    if path.name.endswith(".partial") or (not path.exists() and partial.is_dir()):
        return list(_progress(path if path.name.endswith(".partial") else partial))
    content, run = _record(path, None)
    rows = [*_whole(layout_of(path, run), run, _size(path), content), ("lies in", str(path.resolve()))]
    linked = Linked.of(path, run)
    if linked:
        n_absent = sum(not (path / name).is_file() for name in run.files)
        rows.append(("linked to", f"{linked.url}; {n_absent:,} files lie there alone"))
    if ended.is_left_over(path):
        rows.append(("left over", f"{_bytes(_size(partial))} of its making in {partial}; the next harvest removes them"))
    elif partial.is_dir():
        rows += [("", ""), *_progress(partial)]
    return rows


def _whole(layout: Layout, run: Run, size: int, content: bytes) -> Iterator[tuple[str, str]]:
    facts = run.facts
    yield (
        "store",
        f"{run.id or 'activations'}, schema {facts['store_schema']}, committed; whether it is whole says: sae store verify",
    )
    yield from _sizes(layout)
    yield "on disk", f"{_bytes(size)}, {size / layout.n_rows:.1f} bytes a row, {layout.n_bytes / size:.2f} times smaller than raw"
    yield "mean norm", f"{facts['mean_norm']:.5g}; mean square {facts['mean_square_norm']:.5g}, {_of_mean(facts)}"
    yield "contexts", f"{facts.get('n_contexts', 'unknown'):,}" if "n_contexts" in facts else "not recorded"
    yield "dropped", f"{facts['n_dropped']:,} rows that were not finite, replaced by others"
    yield from _origin(run, facts.get("n_threads"))
    yield "files", f"{len(run.files):,} and {artefact.RUN_FILE}, whose sha256 is {hashlib.sha256(content).hexdigest()}"


def _sizes(layout: Layout) -> Iterator[tuple[str, str]]:
    yield "rows", f"{layout.n_rows:,} of {layout.d_mlp:,} numbers, {layout.dtype} ({_bytes(layout.n_bytes)} before compression)"
    size = _bytes(layout.chunk_rows * layout.d_mlp * layout.on_disk.itemsize)
    yield "chunks", f"of {layout.chunk_rows:,} rows, {size}, codec {layout.codec}"
    yield "shards", f"{layout.n_shards:,} of {layout.chunks_per_shard} chunks, {layout.shard_rows:,} rows"


def _of_mean(facts: dict[str, Any]) -> str:
    return f"of the mean row {facts['square_norm_of_mean']:.5g}"


def _origin(run: Run, n_threads: int | None) -> Iterator[tuple[str, str]]:
    yield "seed", str(run.seed)
    yield "params", ", ".join(f"{key}={value}" for key, value in sorted(run.params.items()))
    yield "made from", ", ".join(f"{name} ({digest[:12]})" for name, digest in sorted(run.parents.items())) or "not recorded"
    yield "device", run.device + (f", on {n_threads} threads" if n_threads else "")
    yield "processor", processor_told(run.processor)
    if "begun_on" in run.facts:
        yield "", f"begun on another one: {processor_told(run.facts['begun_on'])}"
    yield "code", run.code
    yield "made with", ", ".join(f"{key} {value}" for key, value in sorted(run.versions.items()))


def processor_told(processor: dict[str, Any]) -> str:
    """In words."""
    return ", ".join(f"{key} {value}" for key, value in processor.items()) or "not recorded"


def _progress(partial: Path) -> Iterator[tuple[str, str]]:
    try:
        plan = json.loads((partial / "plan.json").read_text(encoding="utf-8"))
        run, layout = Run(**plan["run"]), Layout(**{field.name: plan["layout"][field.name] for field in fields(Layout)})
        n_tasks, n_joined = int(plan["n_tasks"]), int(plan["n_joined"])
    except FileNotFoundError:
        raise StoreError(f"{partial} holds no plan.json: nothing was begun there, or it is being discarded") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{partial / 'plan.json'} is damaged ({error}); harvest again") from None
    pieces, joined, shards = (_names(partial / name) for name in ("pieces", "joined", "shards"))
    done = {int(name) for name in pieces if name.isdecimal()}
    done |= {task for name in joined for task in range(int(name) * n_joined, min((int(name) + 1) * n_joined, n_tasks))}
    yield "unfinished", f"{run.id or partial.stem}, schema {plan['schema']}; goes on when harvested again with the same params"
    yield "harvested", f"{len(done):,} of {n_tasks:,} tasks ({100 * len(done) / n_tasks:.0f} %)"
    if n_joined > 1:
        yield "joined", f"{len(joined):,} of {-(-n_tasks // n_joined):,} files of {n_joined} tasks"
    yield "written", f"{len(shards):,} of {layout.n_shards:,} shards ({100 * len(shards) / layout.n_shards:.0f} %)"
    yield from _sizes(layout)
    yield "on disk", _bytes(_size(partial))
    yield from _origin(run, plan.get("n_threads"))
    yield "lies in", str(partial.resolve())


def _names(folder: Path) -> list[str]:
    return [path.stem for path in folder.glob("*") if path.suffix != ".partial" and path.stem.isdecimal()]


def _files_below(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in artefact.files_below(path)}


def _size(path: Path) -> int:
    """Bytes of all files below."""
    return sum((path / name).stat().st_size for name in _files_below(path))


def _bytes(n: int | float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:,.0f} bytes" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.2f} TiB"
