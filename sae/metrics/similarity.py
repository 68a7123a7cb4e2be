"""How alike directions and activations are: cosines of weights, Pearson correlations from running sums."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae.accumulate import Moments
from sae.shapes import Directions, PerFeature


def row_cosine(a: Float[Tensor, "row column"], b: Float[Tensor, "row column"]) -> Float[Tensor, " row"]:
    """Cosine of each row of `a` with the same row of `b`, float64; 0 where either is a zero vector."""
    a, b = a.double(), b.double()
    norms = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(norms > 0, (a * b).sum(1) / norms.clamp_min(1e-300), 0.0)


def row_pearson(a: Float[Tensor, "row column"], b: Float[Tensor, "row column"]) -> Float[Tensor, " row"]:
    """Pearson correlation of each row of `a` with the same row of `b`, over columns, float64; 0 where either is 0 throughout."""
    a, b = a.double(), b.double()
    return row_cosine(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True))


def encoder_decoder_cosine(W_enc: Directions, W_dec: Directions) -> PerFeature:
    """Cosine of each feature's encoder row with its dictionary vector. Near 0 in the ultralow cluster (method.md A5)."""
    return row_cosine(W_enc, W_dec).float()


def pearson(x: Moments, y: Moments, products: Float[Tensor, "x y"]) -> Float[Tensor, "x y"]:
    """Pearson correlation over all rows of every column of x with every column of y, float64.

    `products` is the sum over rows of x y. 0 where either column is constant, for which no correlation is defined.
    """
    assert x.n == y.n, (x.n, y.n)
    covariance = products - torch.outer(x.total, y.total) / max(x.n, 1)
    scale = torch.outer(spread(x), spread(y))
    return torch.where(scale > 0, covariance / scale.clamp_min(1e-300), 0.0).clamp(-1.0, 1.0)


def spread(moments: Moments) -> Float[Tensor, " column"]:
    """Square root of the squared deviation; exactly 0 where it is rounding error of a constant column."""
    squared = moments.squared_deviation
    return torch.where(squared > 1e-12 * moments.squares, squared, 0.0).sqrt()
