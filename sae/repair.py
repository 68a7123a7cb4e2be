"""Repair of a committed store: only what is damaged is harvested again, and put back only where it is, bit for bit, what was
committed.

The permutation turned round tells which rows lie in a shard, so which contexts they came from; the arrays that are damaged are
not asked. A batch of the forward pass is run whole, as it was, since its rows' bits may depend on its size.
"""

import dataclasses
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sae import artefact, foreign
from sae.errors import StoreError, disk_told
from sae.harvest import HarvestConfig, Plan, harvested, on_threads
from sae.progress import track
from sae.provenance import Run, changed, sha256_file
from sae.source.site import ActivationSource, Frozen
from sae.storage import arrays, claim, upkeep
from sae.storage.layout import FIELDS, ZARR, create_arrays, layout_of, shard_files
from sae.storage.linked import Linked, refuse_url
from sae.storage.permutation import Permutation
from sae.storage.tokens import Split

SHARDS_AT_ONCE = 4
"""That share a forward pass, and are held in memory."""


class Repaired(NamedTuple):
    """What was done."""

    files: list[str]
    n_contexts: int
    """That went through the transformer again."""
    strays: list[str]
    """Files that are no part of the store; they were left."""


def repair(path: str | Path, source: ActivationSource, split: Split, bos: int | None) -> Repaired:
    """Make the damaged files of the store `path` anew, from what it was harvested from.

    Torch computes on as many threads as the store says that it was harvested on. Raises `StoreError` where the record is damaged,
    or where what comes out is not what was committed; then nothing of that shard is changed. Raises `LockedError` where another
    process writes the store. What is missing in a folder linked to a bucket is fetched; of a bucket nothing is repaired in its
    place."""
    refuse_url(path)
    path = upkeep.named(path)
    with disk_told(f"repairing {path}"), claim.claimed(path, None):
        run = artefact.read_run(path, "activations")
        linked = Linked.of(path, run)
        if linked:
            with suppress(StoreError):  # what is damaged there too is made anew
                linked.have(run.files)
        damages = upkeep.verify(path)
        damaged = [one.file for one in damages if one.file in run.files]
        strays = [one.file for one in damages if one.file not in run.files]
        work = path.with_name(path.name + ".repair.partial")
        foreign.refuse_draft(work, "shard", "move it, or remove it, and repair again")
        foreign.remove(work)
        foreign.mark(work)
        try:
            with on_threads(run.facts.get("n_threads") or torch.get_num_threads()):
                n_contexts = _repair(path, run, damaged, work, source, split, bos) if damaged else 0
        finally:
            artefact.discard(work)
    return Repaired(damaged, n_contexts, strays)


def _repair(
    path: Path, run: Run, damaged: Sequence[str], work: Path, source: ActivationSource, split: Split, bos: int | None
) -> int:
    plan = _plan(path, run, split, bos, source.d_mlp)
    group = create_arrays(work / ZARR, plan.layout)
    arrays.write_array(group, "mean", np.array(run.facts["mean"]), ("d_mlp",))
    of_shards = {file: shard for shard in range(plan.layout.n_shards) for file in shard_files(shard)}
    for name in damaged:
        if name not in of_shards:
            _put_back(path, run, work, name, source.device)
    shards = sorted({of_shards[name] for name in damaged if name in of_shards})
    n_contexts, frozen = 0, source.frozen()
    for start in range(0, len(shards), SHARDS_AT_ONCE):
        some = shards[start : start + SHARDS_AT_ONCE]
        records, n = _harvest(path, some, plan, frozen, split)
        n_contexts += n
        for shard in some:
            for (array, field), name in zip(FIELDS, shard_files(shard), strict=True):
                arrays.get_array(group, array)[plan.layout.shard(shard)] = records[shard][field]
                if name in damaged:
                    _put_back(path, run, work, name, source.device)
    return n_contexts


def _plan(path: Path, run: Run, split: Split, bos: int | None, d_mlp: int) -> Plan:
    try:
        plan = Plan(HarvestConfig(**run.params), split, bos, d_mlp)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{path} was not harvested from these tokens by this version ({error}); harvest again") from None
    plan.layout = layout_of(path, run)
    if plan.layout.d_mlp != d_mlp:
        raise StoreError(f"{path} holds rows of {plan.layout.d_mlp} numbers, this transformer has {d_mlp}; give its own")
    return plan


def _harvest(path: Path, shards: Sequence[int], plan: Plan, source: Frozen, split: Split) -> tuple[dict[int, np.ndarray], int]:
    """The records of the shards, and how many contexts they took."""
    layout, batch_contexts = plan.layout, plan.config.batch_contexts
    place = Permutation(layout.n_rows, plan.config.seed)
    rows = [layout.shard(shard) for shard in shards]
    records = {shard: np.empty(row.stop - row.start, layout.record) for shard, row in zip(shards, rows, strict=True)}
    numbers = [place.inverse(np.arange(row.start, row.stop)) for row in rows]
    batches = np.unique(plan.positions.context_of(np.concatenate(numbers)) // batch_contexts)
    n_contexts = 0
    for batch in track(batches, "repair", len(batches)):
        first = int(batch) * batch_contexts
        contexts = range(first, min(first + batch_contexts, plan.n_contexts))
        n_contexts += len(contexts)
        (found,) = harvested(source, split, plan, contexts)
        here = plan.positions.rows(contexts)
        places = place(np.arange(here.start, here.stop))
        for shard, row in zip(shards, rows, strict=True):
            mine = np.flatnonzero((places >= row.start) & (places < row.stop))
            if not found.finite[mine].all():
                raise StoreError(
                    f"shard {shard} of {path} holds a row that took the place of one that was not finite; such shards are "
                    "not repaired: harvest again"
                )
            into = records[shard]
            into["values"][places[mine] - row.start] = found.values[mine]
            into["origin"][places[mine] - row.start] = found.origin[mine]
    return records, n_contexts


def _blamed(run: Run, device: str) -> str:
    """Why the bits are others: what has changed of all that the store's record names. A commit alone changes no bit in most
    cases, so the code is blamed last."""
    now = Run(kind=run.kind, device=device)
    other = changed(run, dataclasses.replace(now, code=run.code))
    if "begun_on" in run.facts:
        other.append(f"it was begun on another processor than it ended on ({run.facts['begun_on']})")
    if other:
        return f"What has changed since: {'; '.join(other)}"
    code = "" if run.code == now.code else f", or what it runs (code {run.code}, now {now.code})"
    return f"Processor, threads, device and versions are what they were, so its transformer or its tokens are others{code}"


def _put_back(path: Path, run: Run, work: Path, name: str, device: str) -> None:
    made, expected = sha256_file(work / name), run.files[name]
    if made != expected:
        raise StoreError(
            f"{path / name} cannot be repaired: what was made for it has sha256 {made}, committed was {expected}. "
            f"{_blamed(run, device)}; harvest again"
        )
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    artefact.sync(work / name)
    os.replace(work / name, path / name)
    artefact.sync((path / name).parent)
