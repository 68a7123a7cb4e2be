"""Adam with the decoder's constraint: rows of W_dec stay on the unit sphere, and the step is taken along it."""

import torch

from sae.kernels.gradients import Weights
from sae.shapes import Directions


@torch.no_grad()
def remove_parallel(gradient: Directions, directions: Directions) -> None:
    """Take from each row of `gradient`, in place, its component along the unit row of `directions`.

    Done before the Adam step: otherwise Adam's moments carry a part that the normalisation undoes (Towards
    Monosemanticity, "Advice for Training", a small but real reduction in loss)."""
    parallel = torch.linalg.vecdot(gradient, directions)
    gradient.addcmul_(parallel[:, None], directions, value=-1)


class ConstrainedAdam:
    """Adam over a dictionary's `Weights`; after each step W_dec's rows are normalised to 1."""

    def __init__(self, weights: Weights, betas: tuple[float, float]):
        self.weights = weights
        self.parameters = [torch.nn.Parameter(tensor, requires_grad=False) for tensor in weights]
        fused = weights.W_enc.device.type in ("cpu", "cuda")
        self.adam = torch.optim.Adam(self.parameters, lr=1.0, betas=betas, fused=fused)

    @torch.no_grad()
    def step(self, gradients: Weights, learning_rate: float) -> None:
        """One update. Changes `gradients.W_dec` in place."""
        remove_parallel(gradients.W_dec, self.weights.W_dec)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.adam.param_groups[0]["lr"] = learning_rate
        self.adam.step()
        W_dec = self.weights.W_dec
        W_dec.div_(W_dec.norm(dim=1, keepdim=True))

    @torch.no_grad()
    def reset(self, features: torch.Tensor) -> None:
        """Zero both moments of the given features' rows of W_enc and W_dec and entries of b_enc, and of nothing else."""
        for name, parameter in zip(Weights._fields, self.parameters, strict=True):
            state = self.adam.state.get(parameter)
            if state and name != "b_dec":
                state["exp_avg"][features] = 0
                state["exp_avg_sq"][features] = 0
