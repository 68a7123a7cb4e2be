"""What a pass over some of the contexts leaves: shares of one pass, read by several processes, are merged to what it would leave.

All that the table says of activations follows from what fired, which is kept whole; of the neurons there are sums. So of a merged
part what fires has the bits of a single pass, and so has every column but the correlations with neurons, which in float32 may
differ in the last bit: float64 sums that were added up in another order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sae.accumulate import Moments
from sae.dictionary.base import Dictionary
from sae.errors import ConfigError, CorpusError
from sae.features.budget import Budget
from sae.features.config import FeaturesConfig
from sae.features.firings import Firings, FiringsReader, check_budget, merged_firings
from sae.features.passes import Batch, batches, contexts_of_share, encode, kept_rows, n_contexts
from sae.features.products import NeuronProducts, Products, SummedProducts
from sae.features.side_by_side import Side
from sae.metrics.density import Active, active_entries
from sae.shapes import PerNeuron, Rows
from sae.source.site import ActivationSource
from sae.storage.share import Share
from sae.storage.tokens import Split, TokenStore

WHOLE = Share(0, 1)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Of the contexts `contexts`, consecutive ones of the held-out split."""

    contexts: range
    limit: int
    """Contexts of the whole pass."""
    n_tokens: int
    """Positions that counted."""
    firings: Firings
    """Tokens are counted from the start of the split, whatever the share."""
    other: Firings | None
    """Of the other dictionary (`features.other`) on the same tokens."""
    neurons: Moments
    """Of the neurons' activations less a constant each, near their means: what float32 rounds off is then small beside what
    varies, and correlations do not see it. The constant is the mean of the whole pass's first batch, the same for all shares."""
    products: Products
    """Σ over those tokens of feature activation times neuron activation less that constant."""


@torch.no_grad()
def read(
    source: ActivationSource,
    dictionary: Dictionary,
    tokens: TokenStore,
    config: FeaturesConfig,
    *,
    share: Share = WHOLE,
    other: Side | None = None,
) -> Part:
    """A share of the pass: the `share.first`-th of `share.n` runs of whole batches.

    Raises `ConfigError` where `memory_mb` does not hold what fires, or no chunk of the table, `NumericsError` for NaN in
    activations."""
    split = tokens.split("heldout")
    limit = n_contexts(split, config.n_tokens)
    contexts = contexts_of_share(source, split, limit, config.contexts_per_batch, share)
    shift = first_mean(source, split, limit, config)
    budget = Budget.of(config, dictionary.n_features, dictionary.d_mlp)
    products = NeuronProducts(budget.n_held, dictionary.d_mlp, split.context_length)
    reader = FiringsReader(dictionary.n_features, None)  # both together are checked below
    beside = FiringsReader(other.dictionary.n_features, None) if other else None
    neurons = Moments.zeros(dictionary.d_mlp, source.device)

    def centred_rows(label: str) -> Iterator[tuple[Batch, Rows, Rows]]:
        for batch in read_batches(source, split, contexts, config, label):
            rows = kept_rows(source.activations(batch.tokens), batch)
            yield batch, rows, rows - shift

    for batch, rows, centred in centred_rows("features"):
        place = np.flatnonzero(batch.keep.flatten().cpu().numpy()) + batch.first * split.context_length
        done = (batch.first + len(batch.tokens) - contexts.start) / limit
        active = fired(dictionary, rows, budget.entries)
        reader.add(active, place, fraction_read=done)
        products.add(batch, centred, *(part.cpu().numpy() for part in (active.unit, active.row, active.value)))
        neurons.add(centred)
        if other and beside:
            seen = rows if other.source is source else kept_rows(other.source.activations(batch.tokens), batch)
            beside.add(fired(other.dictionary, seen, budget.entries), place, fraction_read=done)
        check_budget(reader.n_firings + (beside.n_firings if beside else 0), budget.firings, done, "features")
    products.firings = reader.result()
    products.reread = lambda: ((batch, centred) for batch, _, centred in centred_rows("features, neurons"))
    return Part(
        contexts=contexts,
        limit=limit,
        n_tokens=neurons.n,
        firings=products.firings,
        other=beside.result() if beside else None,
        neurons=neurons,
        products=products,
    )


def read_batches(source: ActivationSource, split: Split, contexts: range, config: FeaturesConfig, label: str) -> Iterator[Batch]:
    """Some of the pass's batches."""
    return batches(
        source,
        split,
        contexts.stop,
        start=contexts.start,
        label=label,
        contexts_per_batch=config.contexts_per_batch,
        skip_bos=config.skip_bos,
    )


def first_mean(source: ActivationSource, split: Split, limit: int, config: FeaturesConfig) -> PerNeuron:
    """Mean activations of the first batch of the pass that has rows. Raises `CorpusError` where none has."""
    for batch in read_batches(source, split, range(limit), config, ""):
        if batch.keep.any():
            return kept_rows(source.activations(batch.tokens), batch).mean(0)
    raise CorpusError(f"no position of the first {limit:,} held-out contexts counts; raise features.n_tokens")


def fired(dictionary: Dictionary, rows: Rows, n_entries: int) -> Active:
    """What fires on some rows, by row; about `n_entries` entries [row, feature] are encoded at a time."""
    n_rows, gathered = max(1, n_entries // dictionary.n_features), Gathered()
    for first in range(0, len(rows), n_rows):
        active = active_entries(encode(dictionary, rows[first : first + n_rows]))
        if n_rows >= len(rows):
            return active
        gathered.add(active._replace(row=active.row + first))
        del active
    return gathered.result()


class Gathered:
    """Parts of what fires, in few arrays. Kept apart, between encoded blocks that come and go, they would hold open the holes
    that those leave on the heap: 1.4 GB at 131,072 features."""

    def __init__(self) -> None:
        self.n, self.whole = 0, Active(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0))

    def add(self, active: Active) -> None:
        end = self.n + len(active.row)
        if end > len(self.whole.row):
            larger = Active(*(part.new_empty(2 * end) for part in active))
            for new, old in zip(larger, self.whole, strict=True):
                new[: self.n] = old[: self.n]
            self.whole = larger
        for whole, part in zip(self.whole, active, strict=True):
            whole[self.n : end] = part
        self.n = end

    def result(self) -> Active:
        return Active(*(part[: self.n].clone() for part in self.whole))


def merge(parts: Sequence[Part], config: FeaturesConfig) -> Part:
    """The shares of one pass, in any order, as one. Raises `ConfigError` where some are missing or doubled, or where `memory_mb`
    does not hold what fired in all."""
    parts = sorted(parts, key=lambda part: (part.contexts.start, part.contexts.stop))
    limit, end = parts[0].limit, 0
    for part in parts:
        if part.contexts.start != end or part.limit != limit or (part.other is None) != (parts[0].other is None):
            told = ", ".join(f"{each.contexts.start} to {each.contexts.stop} of {each.limit}" for each in parts)
            raise ConfigError(f"these are not all shares of one pass: contexts {told}; each must be there, once")
        end = part.contexts.stop
    if end != limit:
        raise ConfigError(f"shares are missing: they end at context {end:,} of {limit:,}; read the others too")
    others = [part.other for part in parts if part.other is not None]
    n_firings = sum(len(firings.token) for firings in (*(part.firings for part in parts), *others))
    check_budget(n_firings, Budget.of(config, parts[0].firings.n_features, len(parts[0].neurons.total)).firings, 1.0, "features")
    if len(parts) == 1:
        return parts[0]
    neurons = parts[0].neurons
    for part in parts[1:]:
        neurons = neurons.merge(part.neurons)
    return Part(
        contexts=range(limit),
        limit=limit,
        n_tokens=neurons.n,
        firings=merged_firings([part.firings for part in parts]),
        other=merged_firings(others) if others else None,
        neurons=neurons,
        products=SummedProducts([part.products for part in parts]),
    )
