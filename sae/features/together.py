"""What fires in several dictionaries of one transformer, from one pass over the text."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from numpy import ndarray

from sae.dictionary.base import Dictionary
from sae.features.firings import Firings, FiringsReader
from sae.features.passes import batches, encode, kept_rows
from sae.metrics.density import active_entries
from sae.shapes import TokenArray
from sae.source.site import ActivationSource
from sae.storage.tokens import Split


class Text(NamedTuple):
    """What was read, and what fired on it."""

    tokens: TokenArray
    """[context, position]."""
    kept: Bool[ndarray, "context position"]
    """Positions that count (`Contexts.kept`)."""
    firings: tuple[Firings, ...]
    """Of each dictionary."""


@torch.no_grad()
def read_text(
    source: ActivationSource,
    dictionaries: Sequence[Dictionary],
    split: Split,
    limit: int,
    *,
    section: str,
    contexts_per_batch: int,
    skip_bos: bool,
    memory_mb: int,
) -> Text:
    """The first `limit` contexts, in order. Raises `ConfigError` where `memory_mb` (of params' `section`) does not hold what
    fires in one dictionary, `NumericsError` for NaN in activations."""
    contexts = split[0:limit]
    kept = contexts.kept(skip_bos=skip_bos)
    readers = [FiringsReader(dictionary.n_features, memory_mb * 2**20, section) for dictionary in dictionaries]
    for batch in batches(source, split, limit, label=section, contexts_per_batch=contexts_per_batch, skip_bos=skip_bos):
        end = batch.first + len(batch.tokens)
        place = np.flatnonzero(kept[batch.first : end]) + batch.first * split.context_length
        rows = kept_rows(source.activations(batch.tokens), batch)
        for dictionary, reader in zip(dictionaries, readers, strict=True):
            reader.add(active_entries(encode(dictionary, rows)), place, fraction_read=end / limit)
    return Text(contexts.tokens, kept, tuple(reader.result() for reader in readers))
