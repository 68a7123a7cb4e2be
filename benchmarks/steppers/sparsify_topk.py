"""eai-sparsify's TopK dictionary: another task (it has no L1), shown for scale. Runs in the peers' environment.

Its `Trainer` wants a language model of the hub, so what its `fit` does around each batch is done here with its own
`SparseCoder`: decoder rows normalised, forward, FVU as the loss, gradient projection, Adam, the count of tokens since each fired.
"""

import torch
from sparsify import SparseCoder, SparseCoderConfig  # type: ignore[import-not-found]
from torch import Tensor


class Sparsify:
    """One step of `Trainer.fit` on a batch of activations; k = 32 whatever the weights' L0 would be with a ReLU."""

    def __init__(self, weights: dict[str, Tensor], *, l1: float, learning_rate: float, batch_size: int, k: int = 32):
        width, d_mlp = weights["W_enc"].shape
        self.coder = SparseCoder(d_mlp, SparseCoderConfig(num_latents=width, k=k))
        with torch.no_grad():
            self.coder.encoder.weight.copy_(weights["W_enc"])
            self.coder.encoder.bias.copy_(weights["b_enc"])
            self.coder.W_dec.copy_(weights["W_dec"])
            self.coder.b_dec.copy_(weights["b_dec"])
        self.adam = torch.optim.Adam(self.coder.parameters(), lr=learning_rate)
        self.tokens_since_fired = torch.zeros(width, dtype=torch.long)

    def step(self, x: Tensor) -> None:
        self.coder.set_decoder_norm_to_unit_norm()
        out = self.coder(x)
        fired = torch.zeros(len(self.tokens_since_fired), dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        out.fvu.backward()
        self.coder.remove_gradient_parallel_to_decoder_directions()
        self.adam.step()
        self.adam.zero_grad()
        self.tokens_since_fired += len(x)
        self.tokens_since_fired[fired] = 0

    @torch.no_grad()
    def measure(self, x: Tensor) -> tuple[float, float]:
        out = self.coder(x)
        return float((out.latent_acts > 0).sum(1).double().mean()), float((out.sae_out - x).square().sum(1).double().mean())
