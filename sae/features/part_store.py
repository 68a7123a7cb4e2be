"""Parts of a pass on disk, for the process that merges them: `<folder>/<i>-of-<N>`, each an artefact of its own."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae import artefact, foreign
from sae.accumulate import Moments
from sae.errors import StoreError
from sae.features.firings import Firings, feature_type
from sae.features.part import Part
from sae.provenance import Run
from sae.storage import arrays
from sae.storage.share import Share

KIND, GROUP = "part of features", "part.zarr"
CHUNK_FEATURES = 512
BLOCK_FEATURES = 4096
"""Features whose sums with neurons are in memory at a time."""


def path_of(folder: Path, share: Share) -> Path:
    return folder / f"{share.first}-of-{share.n}"


def write_part(part: Part, folder: Path, share: Share, run: Run) -> Path:
    """Write the share, all or nothing; what was there is replaced. Raises `DiskError`, `LockedError`."""
    path = path_of(folder, share)
    with artefact.writing(path, replace(run, kind=KIND, facts={"share": list(share)})) as draft:
        n_features = part.firings.n_features
        attributes = {
            "contexts": [part.contexts.start, part.contexts.stop],
            "limit": part.limit,
            "n_tokens": part.n_tokens,
            "n_other": -1 if part.other is None else part.other.n_features,
        }
        group = arrays.create_group(draft.path / GROUP, attributes)
        _write_firings(group, "", part.firings)
        if part.other is not None:
            _write_firings(group, "other_", part.other)
        for name in ("total", "squares"):
            arrays.write_array(group, f"neuron_{name}", getattr(part.neurons, name).cpu().numpy(), ("neuron",))
        shape = (n_features, len(part.neurons.total))
        products = arrays.create_array(group, "products", shape, np.float64, ("feature", "neuron"), chunk_rows=CHUNK_FEATURES)
        for first in range(0, n_features, BLOCK_FEATURES):
            features = slice(first, min(first + BLOCK_FEATURES, n_features))
            products[features] = part.products[features]
    return path


def open_part(path: Path, run: Run) -> Part:
    """A committed share, which must be made as `run` says: from the same parents, with the same params and code. Its sums with
    neurons stay on disk until they are asked for. Raises `StoreError`."""
    found = artefact.read_run(path, KIND, made_by=f"python -m pipelines.features --share {path.name.replace('-of-', '/')}")
    same = all(getattr(found, name) == getattr(run, name) for name in ("params", "parents", "code", "versions"))
    if not same:
        raise StoreError(f"{path} was made with other params, from other artefacts or by other code; remove it, or make it again")
    artefact.verify(path, found)
    group = arrays.open_group(path / GROUP, found)
    attributes: dict[str, Any] = dict(group.attrs)
    n_tokens, limit, n_other = (int(attributes[name]) for name in ("n_tokens", "limit", "n_other"))
    products = arrays.get_array(group, "products")
    sums = (torch.from_numpy(arrays.read_array(group, f"neuron_{name}")) for name in ("total", "squares"))
    return Part(
        contexts=range(*attributes["contexts"]),
        limit=limit,
        n_tokens=n_tokens,
        firings=_read_firings(group, "", products.shape[0]),
        other=None if n_other < 0 else _read_firings(group, "other_", n_other),
        neurons=Moments(n_tokens, *sums),
        products=products,
    )


def open_parts(folder: Path, run: Run) -> dict[Share, Part]:
    """The shares that are there, of one number of shares. Raises `StoreError` for some of another pass, or of several numbers."""
    committed = [path for path in sorted(folder.glob("*-of-*")) if path.is_dir() and path.suffix != ".partial"]
    found = {Share.parse(path.name.replace("-of-", "/")): path for path in committed}
    if len({share.n for share in found}) > 1:
        names = ", ".join(path.name for path in found.values())
        raise StoreError(f"{folder} holds shares of different passes ({names}); remove those that are not wanted")
    return {share: open_part(path, run) for share, path in found.items()}


def remove_parts(folder: Path) -> None:
    """The shares that are there, whole or half-written; what else lies there stays."""
    shares = {path.name.removesuffix(".partial") for path in folder.glob("*-of-*") if path.is_dir()}
    for path in (folder / name for name in shares):
        for made in (path, artefact.partial_of(path)):
            if foreign.is_ours(made):
                artefact.discard(made)
        artefact.lock_of(path).unlink(missing_ok=True)
    with suppress(OSError):  # there is something else
        folder.rmdir()


def _write_firings(group: arrays.Group, prefix: str, firings: Firings) -> None:
    """The feature of each follows from where the features begin."""
    arrays.write_array(group, f"{prefix}start", firings.start, ("boundary",))
    arrays.write_array(group, f"{prefix}token", firings.token, ("firing",), chunk_rows=2**20)
    arrays.write_array(group, f"{prefix}value", firings.value, ("firing",), chunk_rows=2**20)


def _read_firings(group: arrays.Group, prefix: str, n_features: int) -> Firings:
    start, token, value = (arrays.read_array(group, prefix + name) for name in ("start", "token", "value"))
    feature = np.repeat(np.arange(n_features, dtype=feature_type(n_features)), np.diff(start))
    return Firings(n_features, feature, token, value, start)
