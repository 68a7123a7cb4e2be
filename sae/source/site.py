"""`ActivationSource`: one transformer at one site, all that the rest of the library needs of it."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from sae.shapes import Activations, Directions, Logits, LogitWeights, TokenLosses, Tokens

Replace = Callable[[Activations], Activations]
"""Takes the clean activations at the site, returns those that the rest of the forward pass shall see."""


@runtime_checkable
class ActivationSource(Protocol):
    """One transformer, cut at its MLP's hidden layer (after the nonlinearity).

    Token ids are int64 tensors on `device`; all results are float32 on `device`. No gradients are kept.
    """

    d_mlp: int
    n_vocab: int
    context_length: int
    """The longest context that it takes."""
    device: str

    def activations(self, tokens: Tokens) -> Activations:
        """MLP activations at every position; the forward pass stops at the site."""
        ...

    def logits(self, tokens: Tokens, replace: Replace | None = None) -> Logits:
        """Next-token logits, with the site's activations replaced where `replace` is given."""
        ...

    def loss(self, tokens: Tokens, replace: Replace | None = None) -> TokenLosses:
        """Cross-entropy in nats of each predicted token, unreduced."""
        ...

    def mean_inverse_scale(self, tokens: Tokens) -> float:
        """Mean over all positions of 1/σ, the factor by which the final LayerNorm scales; 1.0 where there is none."""
        ...

    def logit_weights(self, directions: Directions, inverse_scale: float) -> LogitWeights:
        """Direct effect of each direction on the logits by path expansion, d · W_out · π · L · W_U.

        π subtracts the mean and L = gain · `inverse_scale` is the diagonal stand-in for the final LayerNorm
        (Towards Monosemanticity, "Feature downstream effects"). Each row is shifted so that its median is 0.
        """
        ...
