"""How features split from one dictionary to a larger one of the same transformer (Towards Monosemanticity, "Feature Splitting"):
the graph of masked cosines, its trees, and whether what splits stays together. docs/method.md, "Splitting"."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from sae.chance import generator
from sae.dictionary.base import Dictionary
from sae.errors import ConfigError, CorpusError
from sae.features.passes import n_contexts
from sae.features.together import Text, read_text
from sae.shown import printable
from sae.source.site import ActivationSource
from sae.splitting.masked import Sizes, sizes_of
from sae.storage.tokens import TokenStore

N_TOKENS = 3
"""That name a feature."""
LAYOUTS = ("pca", "umap")


@dataclass(frozen=True, kw_only=True)
class SplittingConfig:
    """Section `splitting`."""

    dictionaries: list[str] = field(default_factory=list)
    """Of one transformer, from the smallest to the largest, such as [A/0, A/1, A/2]."""
    n_tokens: int = 131_072
    """Held-out tokens to read, in whole contexts; all of them where the split is smaller."""
    min_active: int = 10
    """Features that fire on fewer of these tokens are left out, the ultralow ones with them."""
    least_cosine: float = 0.4
    """Masked cosine above which there is an edge (the paper's)."""
    layout: str = "pca"
    """Of the map: `pca`, or `umap` with clusters, for which `pip install 'sae-pipeline[map]'` is needed."""
    n_trees: int = 6
    """Trees that are drawn of features of the first dictionary, beside those of the proxies: those with the most descendants."""
    skip_bos: bool = True
    """Leave BOS out."""
    contexts_per_batch: int = 16
    """Contexts in one forward pass."""
    memory_mb: int = 1024
    """Memory for what fires in each dictionary, 48 bytes for each activation above 0; twice that is held beside it."""
    seed: int = 0
    """Of the null, of the shuffle of parents, and of the map."""

    def __post_init__(self) -> None:
        for name in ("n_tokens", "min_active", "contexts_per_batch", "memory_mb"):
            if getattr(self, name) < 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be at least 1")
        if not 0 <= self.least_cosine < 1:
            raise ConfigError(f"'least_cosine' = {self.least_cosine}: must be at least 0 and below 1")
        if self.layout not in LAYOUTS:
            raise ConfigError(f"'layout' = {self.layout!r}: there are {', '.join(LAYOUTS)}")
        if len(set(self.dictionaries)) < len(self.dictionaries) or len(self.dictionaries) == 1:
            raise ConfigError(f"'dictionaries' = {self.dictionaries}: give two or more, each once")


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """What `find_splitting` finds."""

    names: tuple[str, ...]
    n_tokens: int
    """Positions that counted."""
    sizes: tuple[Sizes, ...]
    """From each dictionary to the next."""
    to_parent: tuple[Float[ndarray, " _"], ...]
    """Cosine of the dictionary vectors of every child that has an edge, with its best parent."""
    to_other: tuple[Float[ndarray, " _"], ...]
    """The same with the best parent of another one: the control."""
    text: Text
    vocabulary: list[bytes]
    least: float

    @property
    def counted(self) -> list[Int[ndarray, " _"]]:
        """Of each dictionary the features that fire often enough."""
        return [self.sizes[0].counted[0], *(sizes.counted[1] for sizes in self.sizes)]

    def tokens(self, level: int, feature: int) -> list[str]:
        """Those with the most of a feature's activation, summed over the text."""
        place, value = self.text.firings[level].of(feature)
        ids = self.text.tokens.ravel()[place].astype(np.int64)
        total = np.bincount(ids, value)
        best = np.argsort(-total, kind="stable")[:N_TOKENS]
        return [printable(self.vocabulary[k]) for k in best if total[k] > 0]


def find_splitting(
    source: ActivationSource, dictionaries: Sequence[tuple[str, Dictionary]], tokens: TokenStore, config: SplittingConfig
) -> Splitting:
    """Of dictionaries of `source`, by name, from the smallest to the largest.

    Raises `ConfigError` for fewer than two, or where `memory_mb` does not hold what fires; `CorpusError` for a single context,
    which cannot be shuffled; `NumericsError` for NaN in activations."""
    if len(dictionaries) < 2:
        raise ConfigError("splitting needs two dictionaries or more: name them in splitting.dictionaries, the smallest first")
    split = tokens.split("heldout")
    limit = n_contexts(split, config.n_tokens)
    if limit < 2:
        raise CorpusError("one held-out context cannot be shuffled; raise splitting.n_tokens or tokens.heldout_fraction")
    chance = generator(config.seed, "splitting")
    roll = int(chance.integers(max(1, limit // 4), limit - limit // 4)) * split.context_length  # as for universality
    text = read_text(
        source,
        [dictionary for _, dictionary in dictionaries],
        split,
        limit,
        section="splitting",
        contexts_per_batch=config.contexts_per_batch,
        skip_bos=config.skip_bos,
        memory_mb=config.memory_mb,
    )
    names = tuple(name for name, _ in dictionaries)
    sizes = tuple(
        sizes_of(
            (names[k], names[k + 1]),
            text.firings[k],
            text.firings[k + 1],
            text.tokens.size,
            roll,
            least=config.least_cosine,
            min_active=config.min_active,
        )
        for k in range(len(names) - 1)
    )
    cosines = [
        _vector_cosines(found, dictionaries[k][1], dictionaries[k + 1][1], config.least_cosine, chance)
        for k, found in enumerate(sizes)
    ]
    return Splitting(
        names=names,
        n_tokens=int(text.kept.sum()),
        sizes=sizes,
        to_parent=tuple(true for true, _ in cosines),
        to_other=tuple(null for _, null in cosines),
        text=text,
        vocabulary=tokens.vocabulary,
        least=config.least_cosine,
    )


def _vector_cosines(
    found: Sizes, first: Dictionary, second: Dictionary, least: float, chance: np.random.Generator
) -> tuple[Float[ndarray, " child"], Float[ndarray, " child"]]:
    """Of the children with an edge: with the best parent, and with that of another."""
    child = np.flatnonzero(found.best_cosine > least)
    rows = [dictionary.W_dec.double().cpu().numpy() for dictionary in (first, second)]
    rows = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-300) for part in rows]
    parent = found.best[child]
    true, null = ((rows[1][child] * rows[0][of]).sum(1) for of in (parent, chance.permutation(parent)))
    return true, null


def summary(found: Splitting) -> list[dict[str, Any]]:
    """Of each step from one size to the next: edges, children by parent, and how near children are, all with their nulls."""
    rows = []
    for sizes, to_parent, to_other in zip(found.sizes, found.to_parent, found.to_other, strict=True):
        parents, children = sizes.counted
        n = np.array([len(some) for some in sizes.children(found.least)])[parents] if len(parents) else np.zeros(0)
        degree = np.bincount(sizes.parent, minlength=int(parents.max(initial=-1)) + 1)[parents]
        rows.append(
            {
                "first": sizes.first,
                "second": sizes.second,
                "n_parents": len(parents),
                "n_children": len(children),
                "n_edges": len(sizes.parent),
                "n_edges_shuffled": sizes.n_edges_shuffled,
                "share_with_parent": _share(sizes.best_cosine[children] > found.least),
                "share_with_parent_shuffled": _share(sizes.best_shuffled[children] > found.least),
                "children": {name: int(found) for name, found in _counts(n).items()},
                "most_children": int(n.max(initial=0)),
                "median_edges_of_a_parent": float(np.median(degree)) if len(degree) else None,
                "vector_cosine_to_parent": float(np.median(to_parent)) if len(to_parent) else None,
                "vector_cosine_to_other_parent": float(np.median(to_other)) if len(to_other) else None,
                "share_nearer_to_parent": _share(to_parent > to_other),
            }
        )
    return rows


def _counts(n: ndarray) -> dict[str, int]:
    """Features by how many children they have."""
    return {str(k): int((n == k).sum()) for k in range(5)} | {"5 or more": int((n >= 5).sum())}


def _share(true: ndarray) -> float | None:
    return float(true.mean()) if len(true) else None
