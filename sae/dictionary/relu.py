"""The dictionary of Circuits Updates, April 2024: ReLU, untied weights, no pre-encoder bias."""

from typing import ClassVar, final

import torch
from torch import Tensor

from sae.dictionary.base import Dictionary


@final
class ReluDictionary(Dictionary):
    """f = ReLU(W_enc x + b_enc), x̂ = f W_dec + b_dec (Circuits Updates, April 2024, "Update on how we train SAEs")."""

    variant: ClassVar[str] = "relu"

    def encode(self, x: Tensor) -> Tensor:
        return torch.relu(torch.nn.functional.linear(self.rows(x), self.W_enc, self.b_enc))

    def encode_only(self, x: Tensor, features: Tensor) -> Tensor:
        return torch.relu(torch.nn.functional.linear(self.rows(x), self.W_enc[features], self.b_enc[features]))
