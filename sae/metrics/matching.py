"""One-to-one matching: which column each row goes with, for the largest sum of similarities (Hungarian)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.errors import needs

with needs("pipeline"):
    from scipy.optimize import linear_sum_assignment


class Matching(NamedTuple):
    """What each row is matched with."""

    column: Int[Tensor, " row"]
    """Its column, int64; -1 where it has none."""
    similarity: Float[Tensor, " row"]
    """With that column, float64; 0 where it has none."""


def one_to_one(similarity: Float[Tensor, "row column"]) -> Matching:
    """The matching of rows with columns, each used once, that has the largest sum of similarities.

    A pair with a similarity of 0 or less counts as unmatched, so that a further column can never make the sum smaller. Holds a
    float64 copy of the matrix, on the CPU."""
    kept = similarity.detach().cpu().to(torch.float64, copy=True).clamp_(min=0)
    rows, columns = (torch.from_numpy(found) for found in linear_sum_assignment(kept.numpy(), maximize=True))
    column, matched = torch.full((len(kept),), -1), torch.zeros(len(kept), dtype=torch.float64)
    column[rows], matched[rows] = columns, kept[rows, columns]
    column[matched <= 0] = -1
    return Matching(column, matched)
