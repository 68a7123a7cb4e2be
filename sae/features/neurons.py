"""A feature beside the neurons: which it correlates with, and which its dictionary vector is made of."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from sae.features.table import N_NEURONS
from sae.shapes import Directions, PerFeature

TENTH = 0.1
NONE = -1


def neuron_columns(
    W_dec: Directions, correlation: Float[Tensor, "feature d_mlp"], fired: Float[ndarray, " feature"]
) -> dict[str, ndarray]:
    """The table's neuron columns; `fired` is 0 where a feature never did, whose correlations are undefined."""
    unit = F.normalize(W_dec.float(), dim=1)
    ids, values = _largest(correlation, correlation)
    dead = fired == 0
    ids[dead], values[dead] = NONE, 0.0
    coefficient_ids, coefficients = _largest(unit.abs(), unit)
    return {
        "neuron_correlated_ids": ids,
        "neuron_correlated_values": values,
        "neuron_coefficient_ids": coefficient_ids,
        "neuron_coefficient_values": coefficients,
        "n_neurons_above_tenth": (unit.abs() >= TENTH).sum(1).to(torch.int32).cpu().numpy(),
        "participation_ratio": participation_ratio(unit).cpu().numpy(),
    }


def participation_ratio(directions: Directions) -> PerFeature:
    """(Σ c²)² / Σ c⁴ of each direction's coefficients c: n where n of them are alike and the others 0; 0 for a zero vector."""
    squares = directions.float().square()
    return squares.sum(1).square() / squares.square().sum(1).clamp_min(1e-30)


def _largest(key: Tensor, values: Tensor) -> tuple[ndarray, ndarray]:
    """Ids and values of the N_NEURONS largest keys of each row, padded where there are fewer columns."""
    n = min(N_NEURONS, key.shape[1])
    order = torch.argsort(key, dim=1, descending=True, stable=True)[:, :n]
    pad = ((0, 0), (0, N_NEURONS - n))
    ids = np.pad(order.to(torch.int32).cpu().numpy(), pad, constant_values=NONE)
    return ids, np.pad(values.gather(1, order).float().cpu().numpy(), pad)
