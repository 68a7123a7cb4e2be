"""What a replaced MLP costs the transformer: loss recovered against two baselines, nats lost, KL, with bootstrap errors."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from sae.shapes import Logits, TokenLosses, Tokens


def token_losses(log_probs: Logits, tokens: Tokens) -> TokenLosses:
    """Nats of each predicted token under log-probabilities of the next one."""
    return -log_probs[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]


def kl_divergence(log_p: Logits, log_q: Logits) -> Float[Tensor, "context position"]:
    """KL(p ‖ q) = Σ_vocab p (log p - log q) of the next-token distributions, nats at each position."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def loss_recovered(clean: float, spliced: float, ablated: float) -> float:
    """(ablated - spliced) / (ablated - clean): 1 where splicing costs nothing, 0 where it is as bad as ablating.

    NaN where ablating costs nothing, or even helps: then there is nothing to recover, and a ratio of two gains would look like a
    share (120 % of a character model whose padding was counted).
    """
    return (ablated - spliced) / (ablated - clean) if ablated > clean else float("nan")


def told_recovered(figures: Mapping[str, Any], against: Literal["zero", "mean"], *, error: bool = False) -> str:
    """The share recovered against one ablation, of a `LossSummary`'s fields (None or NaN where they are none), in words: a
    percentage, with its standard error where wanted, or why there is none."""
    share = figures.get(f"loss_recovered_{against}")
    if share is not None and not math.isnan(share):
        spread = figures.get(f"loss_recovered_{against}_error")
        return f"{share:.1%} ± {spread:.1%}" if error and spread is not None and not math.isnan(spread) else f"{share:.1%}"
    clean, ablated = figures.get("loss_clean"), figures.get(f"loss_{against}_ablated")
    if clean is None or ablated is None or clean < ablated:
        return "none"
    return f"none (the clean loss, {clean:.3f}, is not below the {against}-ablated one, {ablated:.3f}: nothing to recover)"


class ContextLosses(NamedTuple):
    """Sums over the predictions of each context that count, in nats, float64."""

    n_predicted: Int[ndarray, " context"]
    clean: Float[ndarray, " context"]
    reconstructed: Float[ndarray, " context"]
    zero_ablated: Float[ndarray, " context"]
    mean_ablated: Float[ndarray, " context"]
    kl: Float[ndarray, " context"]


class LossSummary(NamedTuple):
    """Nats a token, mean over all predictions that count; each `_error` is the bootstrap standard error over contexts."""

    n_predicted: int
    loss_clean: float
    loss_reconstructed: float
    loss_zero_ablated: float
    loss_mean_ablated: float
    loss_recovered_zero: float
    """(L_zero - L_reconstructed) / (L_zero - L_clean), the paper's; generous, as zero ablation is an especially bad baseline.
    NaN where L_clean is not below L_zero."""
    loss_recovered_zero_error: float
    loss_recovered_mean: float
    """The same against mean ablation."""
    loss_recovered_mean_error: float
    nats_lost: float
    """L_reconstructed - L_clean."""
    nats_lost_error: float
    kl: float
    """KL(clean ‖ reconstructed)."""


def summarize(losses: ContextLosses, n_bootstrap: int, seed: int) -> LossSummary:
    """Means over tokens, and standard errors from `n_bootstrap` resamplings of whole contexts."""
    sums = np.stack([np.asarray(part, np.float64) for part in losses])
    total = sums.sum(1)
    clean, reconstructed, zero, mean, kl = (float(value) for value in total[1:] / total[0])
    recovered_zero, recovered_mean, lost = _effects(total)
    errors = bootstrap_errors(sums, _effects, n_bootstrap, seed)
    return LossSummary(
        n_predicted=int(total[0]),
        loss_clean=clean,
        loss_reconstructed=reconstructed,
        loss_zero_ablated=zero,
        loss_mean_ablated=mean,
        loss_recovered_zero=recovered_zero,
        loss_recovered_zero_error=errors[0],
        loss_recovered_mean=recovered_mean,
        loss_recovered_mean_error=errors[1],
        nats_lost=lost,
        nats_lost_error=errors[2],
        kl=kl,
    )


def _effects(total: Float[ndarray, " quantity"]) -> tuple[float, float, float]:
    """Recovered against zero, against mean, and nats lost, from the sums of a `ContextLosses` over some contexts."""
    clean, reconstructed, zero, mean = (float(value) for value in total[1:5] / total[0])
    return loss_recovered(clean, reconstructed, zero), loss_recovered(clean, reconstructed, mean), reconstructed - clean


def bootstrap_errors(
    sums: Float[ndarray, "quantity context"],
    statistics: Callable[[ndarray], tuple[float, ...]],
    n_bootstrap: int,
    seed: int,
) -> list[float]:
    """Standard deviation of each statistic of the summed quantities, over resamplings of the contexts with replacement.

    Contexts of one document are taken as independent, which they are not quite: the true errors are somewhat larger.
    """
    generator = np.random.default_rng(seed)
    n_contexts = sums.shape[1]
    drawn = []
    for _ in range(n_bootstrap):
        times = np.bincount(generator.integers(0, n_contexts, n_contexts), minlength=n_contexts)
        drawn.append(statistics(sums @ times))
    return [float(error) for error in np.std(np.array(drawn), axis=0, ddof=1)]
