"""A dictionary before its first step."""

import math

import numpy as np
import torch
from torch import Tensor

from sae.kernels.gradients import Weights
from sae.shapes import Directions, PerFeature, PerNeuron, Rows
from sae.training.recipes import Recipe

BLOCK_FEATURES = 512
MOST_ROWS = 4096
"""Looked at for `threshold`: at 131,072 features and 2,048 active on a row each feature still has 64 of them."""


def geometric_median(rows: Rows, *, iterations: int = 100, tolerance: float = 1e-6) -> PerNeuron:
    """The point with the least sum of distances to `rows` (Weiszfeld's algorithm, float64).

    Stops when a step moves it by less than `tolerance` of its norm. A row that coincides with the estimate is given
    the weight of one at a distance of 1e-9 of the rows' spread, so nothing divides by zero.
    """
    points = rows.double()
    median = points.mean(0)
    floor = 1e-9 * float((points - median).norm(dim=1).mean()) + 1e-300
    for _ in range(iterations):
        weights = 1 / (points - median).norm(dim=1).clamp_min(floor)
        moved = (weights @ points) / weights.sum()
        distance = float((moved - median).norm())
        median = moved
        if distance <= tolerance * float(median.norm()):
            break
    return median.to(rows.dtype)


def threshold(W_enc: Directions, seen: Rows, fraction: float) -> PerFeature:
    """b_enc with which each feature is active on `fraction` (rounded to whole rows, at least one) of the rows `seen`, that is, of
    what the encoder sees: minus the largest W_enc[i] · x that is to stay silent. At most 4,096 rows are looked at."""
    seen = seen[:MOST_ROWS]
    silent = max(1, len(seen) - max(1, round(fraction * len(seen))))
    return -torch.cat([(block @ seen.T).kthvalue(silent, dim=1).values for block in W_enc.split(BLOCK_FEATURES)])


def initial_weights(recipe: Recipe, n_features: int, first: Rows, chance: np.random.Generator) -> Weights:
    """As `recipe` starts, for batches like `first` (scaled).

    `kaiming` (Towards Monosemanticity, "Advice for Training Sparse Autoencoders"): Kaiming-uniform W_enc and W_dec, PyTorch's
    default for a linear layer (bound 1/√fan_in), b_enc as PyTorch's linear layer sets it, which the paper leaves open.
    `transposed` (Circuits Updates, April 2024): W_dec in random directions, W_enc equal to it, b_enc zero. Either leaves half of
    the features active on a row; where that is more than the recipe's `active_at_start`, b_enc is the `threshold` for that many.
    """
    d_mlp = first.shape[1]

    def uniform(bound: float, *shape: int) -> Tensor:
        return torch.from_numpy(chance.random(shape, np.float32)).mul_(2 * bound).sub_(bound)

    if recipe.start == "kaiming":
        W_enc = uniform(1 / math.sqrt(d_mlp), n_features, d_mlp)
        b_enc = uniform(1 / math.sqrt(d_mlp), n_features)
        W_dec = uniform(1 / math.sqrt(n_features), n_features, d_mlp)
        W_dec = recipe.decoder_norm * torch.nn.functional.normalize(W_dec, dim=1)
    else:
        W_dec = torch.from_numpy(chance.standard_normal((n_features, d_mlp), np.float32))
        W_dec = recipe.decoder_norm * torch.nn.functional.normalize(W_dec, dim=1)
        W_enc, b_enc = W_dec.clone(), torch.zeros(n_features, dtype=torch.float32)
    b_dec = geometric_median(first) if recipe.centre == "geometric_median" else torch.zeros_like(first[0])
    if recipe.active_at_start is not None and n_features > 2 * recipe.active_at_start:
        seen = first.cpu() - b_dec.cpu() if recipe.tied_bias else first.cpu()
        b_enc = threshold(W_enc, seen, recipe.active_at_start / n_features)
    return Weights(W_enc.to(first.device), b_enc.to(first.device), W_dec.to(first.device), b_dec)
