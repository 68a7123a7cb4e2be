"""How much of a known truth a dictionary has found: its directions matched with the true ones, by cosine.

    found = recovery(toy.directions, dictionary.W_dec, alive=firing.n_active > 0)

Cosines are signed: feature activations are never negative, so the opposite of a true direction is another feature. Every count
is of directions alone; whether the dictionary's features fire where the true ones do is not asked.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.errors import ConfigError, NumericsError
from sae.metrics.matching import one_to_one


class Recovery(NamedTuple):
    """Recovered, shared and missed are disjoint and together all true features (proof: docs/method.md)."""

    n_true: int
    n_learned: int
    """Learned features that are alive; the dead ones are left out of everything."""
    mean_cosine: float
    """Mean over the true features of the cosine with the learned one that it is matched with; 0 where it has none."""
    recovered: float
    """Fraction of the true features that are matched at `threshold` or above."""
    n_shared: int
    """True features that are not recovered though some learned feature is at `threshold`: the matching gave it to another."""
    n_missed: int
    """True features whose best cosine with any learned one is below `threshold`."""
    n_split: int
    """True features with two copies or more. A copy is a learned feature whose nearest true feature this is, at `threshold`."""
    n_duplicates: int
    """Copies beyond the first of each true feature: learned features that tell nothing new."""
    n_invented: int
    """Learned features whose best cosine with any true one is below `invented_below`."""
    matched: Int[Tensor, " true"]
    """Index of the learned feature that each true one is matched with; -1 where there is none."""
    cosine: Float[Tensor, " true"]
    """Cosine with it, float64; 0 where there is none."""


def recovery(
    directions_true: Float[Tensor, "true _"],
    directions_learned: Float[Tensor, "learned _"],
    *,
    alive: Bool[Tensor, " _"] | None = None,
    threshold: float = 0.9,
    invented_below: float = 0.8,
) -> Recovery:
    """Match true with learned directions, one to one, for the largest sum of cosines (Hungarian), and count.

    Rows need no unit norm; a zero row has cosine 0 with all. A pair with a cosine of 0 or less counts as unmatched, so that a
    further learned feature can never make the mean smaller. `alive` marks the learned features that fire at all (None: all).
    `invented_below` is 0.8 because the sum of two orthogonal features, the commonest invention, has 0.71 with each.
    """
    if alive is None:
        alive = torch.ones(len(directions_learned), dtype=torch.bool)
    _check(directions_true, directions_learned, alive, threshold, invented_below)
    index = alive.cpu().nonzero().flatten()
    cosine = (_unit(directions_true) @ _unit(directions_learned)[index].T).clamp_min(0)
    column, matched_cosine = one_to_one(cosine)
    matched = torch.full_like(column, -1)
    matched[column >= 0] = index[column[column >= 0]]
    # A column and a row of zeros: where one side has no feature at all, the best cosine is 0.
    best_of_true = torch.nn.functional.pad(cosine, (0, 1)).amax(1)
    best_of_learned, nearest = torch.nn.functional.pad(cosine, (0, 0, 0, 1)).max(0)
    copies = torch.bincount(nearest[best_of_learned >= threshold], minlength=len(cosine))
    recovered = matched_cosine >= threshold
    missed = best_of_true < threshold
    return Recovery(
        n_true=len(cosine),
        n_learned=len(index),
        mean_cosine=float(matched_cosine.mean()),
        recovered=float(recovered.double().mean()),
        n_shared=int((~recovered & ~missed).sum()),
        n_missed=int(missed.sum()),
        n_split=int((copies > 1).sum()),
        n_duplicates=int((copies - 1).clamp_min(0).sum()),
        n_invented=int((best_of_learned < invented_below).sum()),
        matched=matched,
        cosine=matched_cosine,
    )


def _unit(directions: Float[Tensor, "feature d_mlp"]) -> Float[Tensor, "feature d_mlp"]:
    directions = directions.detach().cpu().double()
    return directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-300)


def _check(true: Tensor, learned: Tensor, alive: Tensor, threshold: float, invented_below: float) -> None:
    if not len(true):
        raise ConfigError("no true direction given, so nothing can be recovered")
    if true.shape[1] != learned.shape[1]:
        raise ConfigError(
            f"true directions of width {true.shape[1]} and learned ones of {learned.shape[1]}; give both as [feature, d_mlp]"
        )
    if len(alive) != len(learned):
        raise ConfigError(f"'alive' marks {len(alive)} features where {len(learned)} directions are given; mark each of them")
    if not 0 < invented_below <= threshold <= 1:
        raise ConfigError(
            f"'invented_below' = {invented_below} and 'threshold' = {threshold}: must be above 0, at most 1, and in this order"
        )
    for name, directions in (("true", true), ("learned", learned)):
        if not directions.isfinite().all():
            n_bad = int((~directions.isfinite().all(1)).sum())
            raise NumericsError(f"{n_bad} of {len(directions)} {name} directions hold NaN or infinity; did training diverge?")
