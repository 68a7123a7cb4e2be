"""Reading contexts of a split through a transformer: which positions count, and the rows of activations there."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.dictionary.base import Dictionary
from sae.errors import CorpusError, NumericsError
from sae.progress import ProgressBar
from sae.shapes import Activations, Rows, Tokens
from sae.source.site import ActivationSource, Replace
from sae.storage.share import Share
from sae.storage.tokens import Contexts, Split, mask_tensor, to_tensor

MAX_LOGITS = 2**25
"""Entries [context, position, vocab] of one forward pass at most (128 MiB in float32): a large vocabulary makes small batches."""


Change = Callable[[Rows], Rows]
"""What becomes of rows of activations, each for itself."""


class Batch(NamedTuple):
    """Consecutive contexts of a split."""

    first: int
    """Index of the first one in its split."""
    contexts: Contexts
    tokens: Tokens
    """The same ids, on the source's device."""
    keep: Bool[Tensor, "context position"]
    """Positions whose rows count: all but BOS, and but those that the store leaves out (`Contexts.counts`)."""
    predicted: Bool[Tensor, "context predicted"]
    """Predictions that count in a loss; entry t is the one of token t + 1."""


def n_contexts(split: Split, n_tokens: int) -> int:
    """Whole contexts that hold about `n_tokens` positions: at least one, at most all. Raises `CorpusError` for an empty split."""
    if split.n_contexts == 0:
        raise CorpusError("the held-out split holds no context; give more text or raise tokens.heldout_fraction")
    return min(split.n_contexts, max(1, n_tokens // split.context_length))


def batches(
    source: ActivationSource, split: Split, limit: int, *, contexts_per_batch: int, skip_bos: bool, label: str, start: int = 0
) -> Iterator[Batch]:
    """The first `limit` contexts, in order. Documents lie in the store in a shuffled order, so these are a fair sample.

    From context `start` on, where one of these batches begins: then what it yields is part of what it would from 0 on. A batch
    in which nothing counts is passed over."""
    first = start
    with ProgressBar(label, total=limit - start) as bar:
        for contexts in split.batches(_batch_size(source, split, contexts_per_batch), start=start, limit=limit):
            n = len(contexts.tokens)
            keep = mask_tensor(contexts.kept(skip_bos=skip_bos), source.device)
            predicted = mask_tensor(contexts.predicted, source.device)
            if keep.any() or predicted.any():
                yield Batch(first, contexts, to_tensor(contexts.tokens, source.device), keep, predicted)
            first += n
            bar.advance(n)


def contexts_of_share(source: ActivationSource, split: Split, limit: int, contexts_per_batch: int, share: Share) -> range:
    """Of the first `limit` contexts the run of whole batches that a share reads; all shares together have each once."""
    starts = [*split.batch_starts(_batch_size(source, split, contexts_per_batch), limit), limit]
    n_batches = len(starts) - 1
    return range(starts[share.first * n_batches // share.n], starts[(share.first + 1) * n_batches // share.n])


def _batch_size(source: ActivationSource, split: Split, contexts_per_batch: int) -> int:
    return min(contexts_per_batch, max(1, MAX_LOGITS // (split.context_length * source.n_vocab)))


def kept_rows(activations: Activations, batch: Batch) -> Rows:
    """The activations at the positions that count. Raises `NumericsError` where one is NaN or infinite."""
    return _checked(activations[batch.keep], batch)


def _checked(rows: Rows, batch: Batch) -> Rows:
    if not torch.isfinite(rows).all():
        last = batch.first + len(batch.contexts.tokens) - 1
        raise NumericsError(
            f"activations of held-out contexts {batch.first} to {last} hold NaN or infinity; the transformer has diverged: "
            "train it again with a lower transformer.learning_rate, or look at the weights that it was loaded from"
        )
    return rows


def splice(batch: Batch, instead: Change) -> Replace:
    """Replace the rows that count by `instead(rows)`; BOS and others that do not count keep their clean activations, on which no
    dictionary is trained."""
    return replacing(lambda rows: instead(_checked(rows, batch)), batch.keep)


def replacing(instead: Change, keep: Bool[Tensor, "context position"]) -> Replace:
    """Replace the rows at the positions `keep` by `instead(rows)`, and leave the others clean."""

    def replace(activations: Activations) -> Activations:
        spliced = activations.clone()
        spliced[keep] = instead(activations[keep])
        return spliced

    return replace


def encode(dictionary: Dictionary, rows: Rows) -> Float[Tensor, "row feature"]:
    """Feature activations [row, feature]. Raises `NumericsError` where the dictionary's weights make one NaN or infinite."""
    f = dictionary.encode(rows)
    if not torch.isfinite(f.sum()):
        raise NumericsError(
            "the dictionary gives NaN or infinite feature activations for finite inputs: its training diverged; train it "
            "again with a lower train.learning_rate"
        )
    return f
