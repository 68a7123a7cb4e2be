"""Dead features get a new start on the inputs that the dictionary explains worst.

Towards Monosemanticity, "Neuron Resampling": find the features that have not fired in the window; compute the loss on a
random subset of inputs; give each input a probability proportional to its loss squared; for each dead feature draw an
input, set the dictionary vector to it, normalised; set the encoder row to the same direction times 0.2 of the mean norm
of the alive features' encoder rows, its bias to 0; reset the Adam state of what was changed.

Decided where the paper leaves room (`docs/training.md`, "Decided where replications disagree"), and switchable in the recipe:
which loss, which vector, what is dead.
"""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae.kernels.gradients import Weights
from sae.kernels.objective import Objective
from sae.kernels.state import State
from sae.shapes import Rows
from sae.training.precision import full_precision
from sae.training.recipes import Recipe

Draws = Float[Tensor, "draw d_mlp"]

ENCODER_SCALE = 0.2


@torch.no_grad()
@full_precision()
def row_losses(weights: Weights, x: Rows, l1: float, objective: Objective) -> Tensor:
    """‖x − x̂‖² + λ Σ c_i f_i of each row; λ = 0 gives the squared error."""
    seen = x - weights.b_dec if objective.tied_bias else x
    f = torch.addmm(weights.b_enc, seen, weights.W_enc.T).relu_()
    squared_error = torch.addmm(weights.b_dec, f, weights.W_dec).sub_(x).square().sum(1)
    cost = weights.W_dec.norm(dim=1) if objective.weighted_l1 else torch.ones_like(weights.b_enc)
    return squared_error + l1 * (f @ cost)


@torch.no_grad()
def draw_inputs(
    weights: Weights, batches: Iterable[Tensor], n_draws: int, l1: float, objective: Objective, chance: np.random.Generator
) -> Draws:
    """`n_draws` independent draws from the rows of all `batches`, each row with probability ∝ (its loss)².

    One batch is in memory at a time: each draw holds a row, and gives it up for one of the new batch with probability
    (weight of the batch) / (weight so far), which leaves every row its due share.
    """
    drawn = None
    total = 0.0
    for x in batches:
        p = row_losses(weights, x, l1, objective).double().square().cpu().numpy()
        p[~np.isfinite(p)] = 0.0  # a row that holds NaN is never drawn, and leaves the others their share
        weight = float(p.sum())
        if drawn is None:
            drawn = x[:1].repeat(n_draws, 1)
        if weight == 0.0:
            continue
        total += weight
        replaced = np.flatnonzero(chance.random(n_draws) < weight / total)
        chosen = chance.choice(len(p), len(replaced), p=p / weight)
        drawn[torch.from_numpy(replaced).to(x.device)] = x[torch.from_numpy(chosen).to(x.device)]
    assert drawn is not None, "no batches to resample from"
    return drawn


@torch.no_grad()
def resample(state: State, dead: Tensor, inputs: Draws, recipe: Recipe) -> None:
    """Give the features `dead` (bool [feature]) new weights from `inputs`, one row each, in place."""
    weights = state.weights
    index = dead.nonzero()[:, 0]
    directions = inputs - weights.b_dec if recipe.subtract_bias else inputs
    norms = directions.norm(dim=1, keepdim=True)
    fallback = torch.nn.functional.normalize(torch.ones_like(directions), dim=1)
    directions = torch.where(norms > 0, directions / norms.clamp_min(1e-30), fallback)
    alive = weights.W_enc[~dead] if (~dead).any() else weights.W_enc
    weights.W_dec[index] = directions
    weights.W_enc[index] = directions * (ENCODER_SCALE * alive.norm(dim=1).mean())
    weights.b_enc[index] = 0.0
    state.reset_moments(index)
