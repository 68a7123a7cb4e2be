"""The dictionary vectors of several dictionaries in the plane: by their principal components, or by UMAP with clusters."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from sae.dictionary.base import Dictionary
from sae.splitting.umap_door import clusters, embed


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where every row lies."""

    place: Float[ndarray, "row 2"]
    cluster: Int[ndarray, " row"] | None
    """Of HDBSCAN, -1 for none; None where nothing was clustered."""
    kind: str
    """What the axes are, in words."""


def layout_of(rows: Float[Tensor, "row width"], kind: str, seed: int, largest: int) -> Layout:
    """Of `rows`, scaled to norm 1, by `pca` or `umap`; `largest` is the number of rows of the largest dictionary.

    Raises `ConfigError` for `umap` where the extra is not installed."""
    unit = torch.nn.functional.normalize(rows.double().cpu(), dim=1)
    if kind == "pca":
        place, share = principal(unit)
        return Layout(place=place, cluster=None, kind=f"principal components 1 and 2, {share:.0%} of the variance")
    points = unit.float().numpy()
    # the paper: 0.05 for A/0 and A/1, 0.01 with A/2 (its 16,384 features)
    place = embed(points, 2, 0.01 if largest >= 2**14 else 0.05, seed)
    return Layout(place=place, cluster=clusters(embed(points, 10, 0.1, seed)), kind="UMAP")


def stacked_layout(dictionaries: Sequence[Dictionary], counted: Sequence[Int[ndarray, " _"]], kind: str, seed: int) -> Layout:
    """Of the dictionary vectors of all of them, one below the other; by the features `counted` of each alone, and all others are
    nowhere (NaN, cluster -1): vectors of thousands of dead features, left where they began, would make the map's first axis."""
    first = np.cumsum([0, *(dictionary.n_features for dictionary in dictionaries)])
    chosen = np.concatenate([begin + each for begin, each in zip(first[:-1], counted, strict=True)])
    rows = torch.cat([dictionary.W_dec.float().cpu() for dictionary in dictionaries])[torch.from_numpy(chosen)]
    found = layout_of(rows, kind, seed, max(dictionary.n_features for dictionary in dictionaries))
    place, cluster = np.full((first[-1], 2), np.nan), np.full(first[-1], -1)
    place[chosen] = found.place
    if found.cluster is not None:
        cluster[chosen] = found.cluster
    return Layout(place=place, cluster=None if found.cluster is None else cluster, kind=found.kind)


def principal(rows: Float[Tensor, "row width"]) -> tuple[Float[ndarray, "row 2"], float]:
    """Of the rows less their mean, the two directions with the most variance, each with its largest entry above 0; and their
    share of the variance."""
    centred = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = vectors[:, -2:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return (centred @ axes).numpy(), float(values[-2:].sum() / values.sum().clamp_min(1e-300))


def neighbour_distances(
    place: Float[ndarray, "row 2"], child: Int[ndarray, " pair"], parent: Int[ndarray, " pair"], chance: np.random.Generator
) -> tuple[Float[ndarray, " pair"], Float[ndarray, " pair"]]:
    """Distances in the plane of children from their parents, and from the parents of others."""
    true, null = (np.linalg.norm(place[child] - place[of], axis=1) for of in (parent, chance.permutation(parent)))
    return true, null
