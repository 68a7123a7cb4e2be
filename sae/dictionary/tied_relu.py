"""The dictionary of *Towards Monosemanticity*: ReLU, untied weights, pre-encoder bias tied to the decoder bias."""

from typing import ClassVar, final

import torch
from torch import Tensor

from sae.dictionary.base import Dictionary


@final
class TiedBiasDictionary(Dictionary):
    """f = ReLU(W_enc (x - b_dec) + b_enc), x̂ = f W_dec + b_dec (Bricken et al. 2023, "Sparse Autoencoder Setup")."""

    variant: ClassVar[str] = "tied_bias_relu"

    def encode(self, x: Tensor) -> Tensor:
        return torch.relu(torch.nn.functional.linear(self.rows(x) - self.b_dec, self.W_enc, self.b_enc))

    def encode_only(self, x: Tensor, features: Tensor) -> Tensor:
        return torch.relu(torch.nn.functional.linear(self.rows(x) - self.b_dec, self.W_enc[features], self.b_enc[features]))
