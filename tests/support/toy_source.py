"""A transformer small enough to check by hand: embedding, one ReLU MLP, LayerNorm, unembedding; no attention."""

import torch

from sae.shapes import Activations, Directions, Logits, LogitWeights, Positions, TakenActivations, TokenLosses, Tokens
from sae.source.readout import Readout
from sae.source.site import Frozen, Replace, at_positions


class ToySource:
    """Meets `ActivationSource`. Its activations depend on the token alone, so features of tokens are easy to plant."""

    device = "cpu"

    def __init__(self, n_vocab: int = 50, d_model: int = 8, d_mlp: int = 16, context_length: int = 32, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        self.n_vocab, self.d_mlp, self.context_length = n_vocab, d_mlp, context_length
        self.W_E, self.W_in, self.W_out = normal(n_vocab, d_model), normal(d_model, d_mlp), normal(d_mlp, d_model) / 4
        self.gain, self.W_U = torch.rand(d_model, generator=generator) + 0.5, normal(d_model, n_vocab)

    def activations(self, tokens: Tokens) -> Activations:
        return torch.relu(self.W_E[tokens] @ self.W_in)

    def activations_at(self, tokens: Tokens, positions: Positions) -> TakenActivations:
        return at_positions(self.activations(tokens), positions)

    def frozen(self) -> Frozen:
        return Frozen(self.d_mlp, self.device, self.activations_at)

    def _residual(self, tokens: Tokens, replace: Replace | None) -> torch.Tensor:
        acts = self.activations(tokens)
        return self.W_E[tokens] + (acts if replace is None else replace(acts)) @ self.W_out

    def logits(self, tokens: Tokens, replace: Replace | None = None) -> Logits:
        x = self._residual(tokens, replace)
        x = x - x.mean(-1, keepdim=True)
        return x / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * self.gain @ self.W_U

    def loss(self, tokens: Tokens, replace: Replace | None = None) -> TokenLosses:
        log_probs = self.logits(tokens, replace)[:, :-1].log_softmax(-1)
        return -log_probs.gather(-1, tokens[:, 1:, None])[..., 0]

    def mean_inverse_scale(self, tokens: Tokens) -> float:
        x = self._residual(tokens, None)
        return float((x.var(-1, unbiased=False) + 1e-5).rsqrt().mean())

    def logit_weights(self, directions: Directions, inverse_scale: float) -> LogitWeights:
        x = directions @ self.W_out
        weights = (x - x.mean(-1, keepdim=True)) * self.gain * inverse_scale @ self.W_U
        return weights - weights.median(-1, keepdim=True).values

    def readout(self) -> Readout:
        return Readout(
            residual=lambda tokens: self._residual(tokens, None),
            W_out=self.W_out,
            W_U=self.gain[:, None] * self.W_U,
            bias=torch.zeros(self.n_vocab),
            norm="layer",
            eps=1e-5,
        )
