"""Dead features get a new start on the inputs that the dictionary explains worst.

Towards Monosemanticity, "Neuron Resampling": find the features that have not fired in the window; compute the loss on a
random subset of inputs; give each input a probability proportional to its loss squared; for each dead feature draw an
input, set the dictionary vector to it, normalised; set the encoder row to the same direction times 0.2 of the mean norm
of the alive features' encoder rows, its bias to 0; reset the Adam state of what was changed.

Decided where the paper leaves room (`docs/method.md`, "Resampling"): the loss is the total one, ‖x − x̂‖² + λ‖f‖₁ of the
input; the vector drawn is x − b_dec, which is what the encoder sees, or x itself with `subtract_bias=False`.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionary.relu import TiedBiasDictionary
from sae.kernels.gradients import Weights
from sae.shapes import Rows
from sae.training.optimizer import ConstrainedAdam

Draws = Float[Tensor, "draw d_mlp"]

ENCODER_SCALE = 0.2


@torch.no_grad()
def row_losses(weights: Weights, x: Rows, l1_coefficient: float) -> Tensor:
    """‖x − x̂‖² + λ‖f‖₁ of each row."""
    dictionary = TiedBiasDictionary(*weights)
    f = dictionary.encode(x)
    return (dictionary.decode(f) - x).square().sum(1) + l1_coefficient * f.sum(1)


@torch.no_grad()
def draw_inputs(
    weights: Weights, batches: Iterable[Tensor], n_draws: int, l1_coefficient: float, generator: torch.Generator
) -> Draws:
    """`n_draws` independent draws from the rows of all `batches`, each row with probability ∝ loss².

    One batch is in memory at a time: each draw holds a row, and gives it up for one of the new batch with probability
    (weight of the batch) / (weight so far), which leaves every row its due share.
    """
    drawn = None
    total = 0.0
    for x in batches:
        p = row_losses(weights, x, l1_coefficient).double().square().cpu()
        weight = float(p.sum())
        if drawn is None:
            drawn = x[:1].repeat(n_draws, 1)
        if weight == 0.0:
            continue
        total += weight
        replaced = (torch.rand(n_draws, generator=generator, dtype=torch.float64) < weight / total).nonzero()[:, 0]
        if len(replaced):
            chosen = torch.multinomial(p, len(replaced), replacement=True, generator=generator)
            drawn[replaced.to(x.device)] = x[chosen.to(x.device)]
    assert drawn is not None, "no batches to resample from"
    return drawn


@torch.no_grad()
def resample(weights: Weights, optimizer: ConstrainedAdam, dead: Tensor, inputs: Draws, *, subtract_bias: bool) -> None:
    """Give the features `dead` (bool [feature]) new weights from `inputs`, one row each, in place."""
    index = dead.nonzero()[:, 0]
    directions = inputs - weights.b_dec if subtract_bias else inputs
    norms = directions.norm(dim=1, keepdim=True)
    fallback = torch.nn.functional.normalize(torch.ones_like(directions), dim=1)
    directions = torch.where(norms > 0, directions / norms.clamp_min(1e-30), fallback)
    alive = weights.W_enc[~dead] if (~dead).any() else weights.W_enc
    weights.W_dec[index] = directions
    weights.W_enc[index] = directions * (ENCODER_SCALE * alive.norm(dim=1).mean())
    weights.b_enc[index] = 0.0
    optimizer.reset(index)
