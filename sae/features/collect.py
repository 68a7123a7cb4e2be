"""The feature pass: held-out contexts once through transformer and dictionary, and from what fired, every column of the table."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from sae.accumulate import Moments
from sae.dictionary.base import Dictionary
from sae.errors import ConfigError
from sae.features.ablations import ablation_columns, unmeasured
from sae.features.examples import Choice, example_columns
from sae.features.firings import Firings, FiringsReader, interval_of
from sae.features.logits import allowed_tokens, logit_columns, mean_inverse_scale
from sae.features.neurons import neuron_columns, products
from sae.features.passes import batches, encode, kept_rows, n_contexts
from sae.features.table import N_BINS, FeatureTable, TableInfo
from sae.metrics.density import active_entries
from sae.metrics.similarity import encoder_decoder_cosine, pearson
from sae.provenance import Run
from sae.source.site import ActivationSource
from sae.storage.tokens import Contexts, TokenStore


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """Section `features`."""

    n_tokens: int = 262_144
    """Held-out tokens to read, in whole contexts; all of them where the split is smaller."""
    n_top: int = 20
    """Top examples of each feature, one a document."""
    n_intervals: int = 10
    """Intervals of equal width over (0, largest activation] (the paper: 11)."""
    examples_per_interval: int = 5
    """Examples drawn from each interval, one a document."""
    window: int = 8
    """Tokens shown on either side of an example's own."""
    logit_min_count: int = 10
    """Tokens rarer than this in the train split are left out of the logit lists: their unembedding is hardly trained."""
    skip_bos: bool = True
    """Leave BOS out of every statistic: the dictionary was not trained on it (harvest.skip_bos)."""
    contexts_per_batch: int = 16
    """Contexts in one forward pass."""
    ablation: bool = False
    """Fill the ablation columns (36 CPU seconds for 8 M firings). Off: their last bits were seen to differ between two runs."""
    memory_mb: int = 2048
    """Memory for what fires, 40 bytes for each activation above 0: enough for an L0 of 200 at 262,144 tokens."""
    seed: int = 0
    """Of the draw from intervals."""

    def __post_init__(self) -> None:
        positive = ("n_tokens", "n_top", "n_intervals", "examples_per_interval", "contexts_per_batch", "memory_mb")
        for name in positive:
            if getattr(self, name) < 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be at least 1")
        for name in ("window", "logit_min_count", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must not be negative")
        if self.n_intervals > 127:
            raise ConfigError(f"'n_intervals' = {self.n_intervals}: at most 127")

    @property
    def choice(self) -> Choice:
        return Choice(self.n_top, self.n_intervals, self.examples_per_interval, self.window, self.seed)


class Reading(NamedTuple):
    """What one pass over the contexts leaves."""

    contexts: Contexts
    """All that were read."""
    n_tokens: int
    """Positions that counted."""
    kind_tokens: tuple[int, ...]
    firings: Firings
    neurons: Moments
    """Of the neurons' activations less a constant each, near their means: what float32 rounds off is then small beside what
    varies, and correlations do not see it."""
    products: Float[Tensor, "feature d_mlp"]
    """Σ over those tokens of feature activation times neuron activation less that constant, float64."""


@torch.no_grad()
def collect(source: ActivationSource, dictionary: Dictionary, tokens: TokenStore, config: FeaturesConfig) -> FeatureTable:
    """The table of `dictionary`'s features on held-out text.

    Raises `ConfigError` where `memory_mb` does not hold what fires, `NumericsError` for NaN in activations.
    """
    reading = read(source, dictionary, tokens, config)
    inverse_scale = mean_inverse_scale(source, tokens)
    allowed = allowed_tokens(tokens, config.logit_min_count, source.n_vocab)
    firings, contexts = reading.firings, reading.contexts
    maximum = firings.maximum()
    columns = activation_columns(firings, maximum, contexts.kind.ravel(), len(tokens.kinds), reading.n_tokens)
    columns |= example_columns(firings, maximum, contexts.tokens, contexts.document, config.choice)
    columns |= logit_columns(source, dictionary.W_dec, inverse_scale, allowed)
    columns |= neuron_columns(dictionary.W_dec, _correlation(reading), maximum)
    columns |= unmeasured(dictionary.n_features)
    if config.ablation:
        columns |= ablation_columns(
            source,
            dictionary.W_dec,
            tokens.split("heldout"),
            firings,
            memory=config.memory_mb * 2**20,
            contexts_per_batch=config.contexts_per_batch,
        )
    columns["encoder_bias"] = dictionary.b_enc.float().cpu().numpy()
    columns["encoder_decoder_cosine"] = encoder_decoder_cosine(dictionary.W_enc, dictionary.W_dec).cpu().numpy()
    info = TableInfo(
        n_tokens=reading.n_tokens,
        n_contexts=len(contexts.tokens),
        kinds=tokens.kinds,
        kind_tokens=reading.kind_tokens,
        window=config.window,
        n_top=config.n_top,
        n_intervals=config.n_intervals,
        n_logit_vocabulary=int(allowed.sum()),
        inverse_scale=inverse_scale,
    )
    run = Run(kind="features", id=dictionary.run.id if dictionary.run else "")
    return FeatureTable(columns, info, tokens.vocabulary, run)


def read(source: ActivationSource, dictionary: Dictionary, tokens: TokenStore, config: FeaturesConfig) -> Reading:
    """One pass over the contexts."""
    split = tokens.split("heldout")
    limit = n_contexts(split, config.n_tokens)
    reader = FiringsReader(dictionary.n_features, config.memory_mb * 2**20)
    neurons = Moments.zeros(dictionary.d_mlp, source.device)
    total = torch.zeros(dictionary.n_features, dictionary.d_mlp, dtype=torch.float64, device=source.device)
    shift, seen, kinds = None, [], np.zeros(len(tokens.kinds) + 1, np.int64)
    for batch in batches(
        source, split, limit, label="features", contexts_per_batch=config.contexts_per_batch, skip_bos=config.skip_bos
    ):
        rows = kept_rows(source.activations(batch.tokens), batch)
        active = active_entries(encode(dictionary, rows))
        kept = batch.keep.flatten().cpu().numpy()
        done = batch.first + len(batch.contexts.tokens)
        reader.add(active, np.flatnonzero(kept) + batch.first * split.context_length, fraction_read=done / limit)
        shift = rows.mean(0) if shift is None else shift
        centred = rows - shift
        neurons.add(centred)
        total += products(active, centred, dictionary.n_features)
        kinds += np.bincount(batch.contexts.kind.ravel()[kept].astype(np.int64) + 1, minlength=len(kinds))
        seen.append(batch.contexts)
    contexts = Contexts(*(np.concatenate(parts) for parts in zip(*seen, strict=True)))
    return Reading(contexts, neurons.n, tuple(kinds[1:].tolist()), reader.result(), neurons, total)


def activation_columns(
    firings: Firings, maximum: Float[ndarray, " feature"], kind: ndarray, n_kinds: int, n_tokens: int
) -> dict[str, ndarray]:
    """Density, histogram and the like; `kind` is that of every token of the pass, -1 for BOS."""
    n_active = firings.n_active
    total, _ = firings.sums()
    bins = interval_of(firings.value, maximum[firings.feature], N_BINS)
    kinds = firings.count(kind[firings.token].astype(np.int64) + 1, n_kinds + 1)[:, 1:]
    return {
        "density": n_active / max(n_tokens, 1),
        "n_active": n_active,
        "max_activation": maximum,
        "mean_activation": (total / np.maximum(n_active, 1)).astype(np.float32),
        "histogram": firings.count(bins, N_BINS),
        "kind_counts": np.ascontiguousarray(kinds),
    }


def _correlation(reading: Reading) -> Float[Tensor, "feature d_mlp"]:
    device = reading.products.device
    total, squares = (torch.from_numpy(part).to(device) for part in reading.firings.sums())
    return pearson(Moments(reading.n_tokens, total, squares), reading.neurons, reading.products)
