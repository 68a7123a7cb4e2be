"""All that a training step changes: the weights, Adam's moments and how many updates they have seen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae.kernels.gradients import Weights


@dataclass
class State:
    """Weights and moments, float32, on one device. Engines change the tensors in place and never replace them."""

    weights: Weights
    first: Weights
    """Adam's first moments."""
    second: Weights
    """Adam's second moments."""
    n_updates: int = 0
    """Updates applied so far, for Adam's bias correction."""

    @classmethod
    def start(cls, weights: Weights) -> "State":
        """Moments of zero beside `weights` (which are taken over, not copied)."""
        return cls(weights, Weights(*map(torch.zeros_like, weights)), Weights(*map(torch.zeros_like, weights)))

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, `W_enc` ... `first.b_dec` ... `second.W_enc` ..., not copied."""
        parts = {"": self.weights, "first.": self.first, "second.": self.second}
        return {f"{prefix}{name}": getattr(part, name) for prefix, part in parts.items() for name in Weights._fields}

    def load(self, tensors: dict[str, Tensor], n_updates: int) -> None:
        """Take over the values of `tensors`, named as in `tensors()`."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self.n_updates = n_updates

    @torch.no_grad()
    def reset_moments(self, features: Tensor) -> None:
        """Zero both moments of the given features' rows of W_enc and W_dec and entries of b_enc, and of nothing else."""
        for moments in (self.first, self.second):
            for name in ("W_enc", "b_enc", "W_dec"):
                getattr(moments, name)[features] = 0
