"""What trainings of different libraries share: the batches, in the same order, and the weights at the end, in our convention."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Trained(NamedTuple):
    """A ReLU dictionary: f = ReLU(W_enc x̄ + b_enc), x̂ = f W_dec + b_dec."""

    W_enc: Tensor
    """[feature, d_mlp]"""
    b_enc: Tensor
    """[feature]"""
    W_dec: Tensor
    """[feature, d_mlp]; rows of any norm (SAELens' are free)."""
    b_dec: Tensor
    """[d_mlp]"""
    tied: bool
    """x̄ = x − b_dec, else x̄ = x."""


def batches(rows: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches [batch_size, d_mlp] without end: each epoch a new order of all rows, from `seed` alone; the rest of an epoch that
    fills no batch is left out."""
    if batch_size > len(rows):
        raise ValueError(f"a batch of {batch_size} from {len(rows)} rows; give more rows or a smaller batch")
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows), generator=generator)
        for start in range(0, len(rows) - batch_size + 1, batch_size):
            yield rows[order[start : start + batch_size]]
