"""How good a transformer is on held-out text, beside baselines that need none."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from sae.errors import CorpusError, NumericsError
from sae.source.baselines import measure_baselines
from sae.source.site import ActivationSource
from sae.storage.tokens import Sequences, Split, mask_tensor, to_tensor

CLEAR_MARGIN = 0.3
"""Nats a token under the bigram: less, and its MLP has learned little that is worth a dictionary."""

TOKENS_PER_BATCH = 4096
"""Their logits take 64 MB at a vocabulary of 4,096 and 0.8 GB at 50,000, a few times over."""


@dataclass(frozen=True, kw_only=True)
class Heldout:
    """All means over the same predicted held-out tokens, those that count, nats a token."""

    heldout_loss: float
    """The transformer's."""
    zero_ablated_loss: float
    """The transformer's with the activations at its site set to zero."""
    unigram_loss: float
    bigram_loss: float
    """Of models fitted on the whole train split."""
    n_heldout_tokens: int
    """Predictions that the means are over: those that count."""

    @property
    def margin(self) -> float:
        """By how much the transformer is better than the bigram."""
        return self.bigram_loss - self.heldout_loss

    def report(self) -> str:
        """A table, and the verdict."""
        rows = (
            ("unigram", self.unigram_loss),
            ("bigram (Kneser-Ney)", self.bigram_loss),
            ("transformer, MLP zeroed", self.zero_ablated_loss),
            ("transformer", self.heldout_loss),
        )
        lines = [f"held-out loss, nats a token, over {self.n_heldout_tokens:,} predicted tokens"]
        lines += [f"  {name:<24}{loss:7.3f}" for name, loss in rows]
        if self.margin >= CLEAR_MARGIN:
            lines.append(f"The transformer beats the bigram clearly, by {self.margin:.3f} nats a token.")
        else:
            how = f"by only {self.margin:.3f}" if self.margin > 0 else f"and is worse by {-self.margin:.3f}"
            lines.append(
                f"THE TRANSFORMER DOES NOT BEAT THE BIGRAM CLEARLY: {how} nats a token (clear: {CLEAR_MARGIN}). "
                "A dictionary of its MLP would say little: train it longer (transformer.n_tokens) or on more text."
            )
        if self.zero_ablated_loss < self.heldout_loss:
            lines.append(
                f"THE TRANSFORMER IS BETTER WITHOUT ITS MLP, by {self.heldout_loss - self.zero_ablated_loss:.3f} nats a token: a "
                "dictionary of it cannot be judged by the loss that it recovers. Are predictions counted that nobody can make "
                "(padding, symbols drawn by chance)? Leave them out: tokens.pad, tokens.predicted, tokens.predicted_mask."
            )
        return "\n".join(lines)


def spread(split: Split, n_tokens: int) -> Sequences:
    """Whole contexts of about `n_tokens` tokens, evenly spaced over the split (which may be sorted); all where it holds fewer.

    Raises `CorpusError` for an empty split.
    """
    if not split.n_contexts:
        raise CorpusError("the held-out split holds no context; give more text or a larger held-out share")
    n_contexts = min(split.n_contexts, max(1, n_tokens // split.context_length))
    chosen = np.arange(n_contexts) * split.n_contexts // n_contexts
    return split.sequences().part(chosen)


@torch.no_grad()
def measure(source: ActivationSource, train: Sequences, heldout: Sequences) -> Heldout:
    """The transformer and the baselines on the predictions of `heldout` that count. Ablated, the activations at the site are zero
    at every position.

    Raises `CorpusError` where none counts, `NumericsError` for a loss that is not finite."""
    clean = ablated = 0.0
    n_tokens = int(heldout.predicted.sum())
    if n_tokens == 0:
        raise CorpusError("no prediction of the held-out contexts looked at counts; raise transformer.heldout_tokens")
    contexts_per_batch = max(1, TOKENS_PER_BATCH // heldout.tokens.shape[1])
    for start in range(0, len(heldout.tokens), contexts_per_batch):
        part = heldout.part(slice(start, start + contexts_per_batch))
        tokens = to_tensor(part.tokens, source.device)
        counted = mask_tensor(part.predicted, source.device)
        clean += float(torch.where(counted, source.loss(tokens).double(), 0.0).sum())
        ablated += float(torch.where(counted, source.loss(tokens, replace=torch.zeros_like).double(), 0.0).sum())
    if not math.isfinite(clean + ablated):
        raise NumericsError("the transformer's held-out loss is not finite: its weights hold NaN or infinity; nothing is saved")
    baselines = measure_baselines(train, heldout, source.n_vocab)
    return Heldout(
        heldout_loss=clean / n_tokens,
        zero_ablated_loss=ablated / n_tokens,
        unigram_loss=baselines.unigram,
        bigram_loss=baselines.bigram,
        n_heldout_tokens=n_tokens,
    )
