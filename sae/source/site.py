"""`ActivationSource`: one transformer at one site, all that the rest of the library needs of it."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sae.shapes import Activations, Directions, Logits, LogitWeights, Positions, TakenActivations, TokenLosses, Tokens
from sae.source.readout import Readout

Replace = Callable[[Activations], Activations]
"""Takes the clean activations at the site, returns those that the rest of the forward pass shall see."""


class Frozen(NamedTuple):
    """What a harvest needs of an `ActivationSource`, whose weights stay as they are."""

    d_mlp: int
    device: str
    activations_at: Callable[[Tokens, Positions], TakenActivations]


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

    def activations_at(self, tokens: Tokens, positions: Positions) -> TakenActivations:
        """Those at `positions` alone, on `device`, counted from 0: `at_positions(self.activations(tokens), positions)`, for
        less work where the source can. The bits of a row may depend on the shapes of both tensors, on nothing else of them but
        its own context and position."""
        ...

    def frozen(self) -> "Frozen":
        """To call `activations_at` many times: what follows from the weights alone may be computed once, now. It is for the
        weights as they are; its bits may differ from the source's."""
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

    def readout(self) -> Readout | None:
        """How the logits are read from the site, where only the final norm lies between (the last layer's MLP); else None."""
        ...


def at_positions(x: Float[Tensor, "context position width"], positions: Positions) -> Float[Tensor, "context taken width"]:
    """What `x` has there, in a tensor of its own. Raises `IndexError` for a position that it does not have.

    By an index of contexts: a quarter of the time of `gather`, which wants an index for every number."""
    return x[torch.arange(len(x), device=x.device)[:, None], positions]
