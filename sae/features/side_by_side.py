"""Two dictionaries over the same text in one pass: what fires in each, and the sums that correlate the neurons under them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from sae.accumulate import Moments
from sae.dictionary.base import Dictionary
from sae.features.firings import Firings, FiringsReader
from sae.features.passes import batches, encode, kept_rows
from sae.metrics.density import active_entries
from sae.shapes import PerNeuron, Rows, TokenArray
from sae.source.site import ActivationSource
from sae.storage.tokens import Split, to_tensor


class Side(NamedTuple):
    """One of the two that are compared."""

    id: str
    source: ActivationSource
    dictionary: Dictionary


@dataclass(frozen=True, kw_only=True)
class NeuronSums:
    """Running sums over the rows of both transformers, less a constant each near their means, which float32 wants."""

    shifts: tuple[PerNeuron, PerNeuron]
    first: Moments
    second: Moments
    products: Float[Tensor, "neuron other"]
    shuffled: Float[Tensor, "neuron other"]
    """Products with the second transformer's rows of other contexts, which over the whole pass are the same rows."""

    @classmethod
    def begin(cls, first: Rows, second: Rows) -> "NeuronSums":
        zeros = torch.zeros(first.shape[1], second.shape[1], dtype=torch.float64, device=first.device)
        return cls(
            shifts=(first.mean(0), second.mean(0)),
            first=Moments.zeros(first.shape[1], first.device),
            second=Moments.zeros(second.shape[1], second.device),
            products=zeros,
            shuffled=zeros.clone(),
        )

    def add(self, first: Rows, second: Rows, other: Rows) -> None:
        x, y, z = first - self.shifts[0], second - self.shifts[1], other - self.shifts[1]
        self.first.add(x)
        self.second.add(y)
        self.products.add_((x.T @ y).double())
        self.shuffled.add_((x.T @ z).double())


class Reading(NamedTuple):
    """What one pass over the contexts leaves."""

    tokens: TokenArray
    """All that were read."""
    kept: Bool[ndarray, "context position"]
    """Positions that count (`Contexts.kept`)."""
    firings: tuple[Firings, Firings]
    neurons: NeuronSums | None
    """None where both dictionaries are of one transformer."""


@torch.no_grad()
def read_both(
    sides: tuple[Side, Side], split: Split, limit: int, roll: int, *, contexts_per_batch: int, skip_bos: bool, memory_mb: int
) -> Reading:
    """The first `limit` contexts through both, in order. Raises `ConfigError` where `memory_mb` does not hold what fires."""
    contexts = split[0:limit]
    tokens, kept = contexts.tokens, contexts.kept(skip_bos=skip_bos)
    other, other_kept = (np.roll(part, -roll, axis=0) for part in (tokens, kept))
    readers = [FiringsReader(side.dictionary.n_features, memory_mb * 2**20, "universality") for side in sides]
    sources = [side.source for side in sides]
    one, neurons = sources[0] is sources[1], None
    for batch in batches(
        sources[0], split, limit, label="universality", contexts_per_batch=contexts_per_batch, skip_bos=skip_bos
    ):
        end = batch.first + len(batch.tokens)
        place = np.flatnonzero(kept[batch.first : end]) + batch.first * split.context_length
        first = kept_rows(sources[0].activations(batch.tokens), batch)
        second = first if one else kept_rows(sources[1].activations(batch.tokens), batch)
        for side, reader, rows in zip(sides, readers, (first, second), strict=True):
            reader.add(active_entries(encode(side.dictionary, rows)), place, fraction_read=end / limit)
        if not one and len(first):
            neurons = neurons or NeuronSums.begin(first, second)
            rolled = to_tensor(other[batch.first : end], sources[1].device)
            shuffled = kept_rows(sources[1].activations(rolled), batch)
            # Where a position counts in this context and not in the other one: the mean, which adds nothing.
            there = torch.from_numpy(other_kept[batch.first : end][kept[batch.first : end]]).to(shuffled.device)
            neurons.add(first, second, torch.where(there[:, None], shuffled, neurons.shifts[1]))
    return Reading(tokens, kept, (readers[0].result(), readers[1].result()), neurons)
