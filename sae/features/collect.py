"""The feature table: held-out contexts once through transformer and dictionary (`part.read`), and from what fired every column,
some features at a time, so that a table may be larger than memory."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from sae.accumulate import Moments
from sae.dictionary.base import Dictionary
from sae.features.ablations import ablation_columns, unmeasured
from sae.features.budget import Budget
from sae.features.config import FeaturesConfig
from sae.features.examples import example_columns
from sae.features.firings import BYTES_EACH, Firings, interval_of
from sae.features.logits import allowed_tokens, logit_columns, mean_inverse_scale
from sae.features.neurons import neuron_columns
from sae.features.part import Part, merge, read
from sae.features.partners import Partners, no_partners, partner_columns
from sae.features.side_by_side import Side
from sae.features.table import N_BINS, FeatureTable, TableInfo
from sae.metrics.similarity import encoder_decoder_cosine, pearson
from sae.provenance import Run
from sae.source.site import ActivationSource
from sae.storage.tokens import Contexts, TokenStore

Columns = dict[str, ndarray]


def collect(
    source: ActivationSource,
    dictionary: Dictionary,
    tokens: TokenStore,
    config: FeaturesConfig,
    *,
    parts: Sequence[Part] = (),
    other: Side | None = None,
) -> FeatureTable:
    """The table of `dictionary`'s features on held-out text, in memory; from all shares of the pass where `parts` are given (as
    `part.read` makes them), else by a pass here. `other` is the dictionary that `config.other` names.

    Raises `ConfigError` where `memory_mb` does not hold what fires or shares are missing, `NumericsError` for NaN in activations.
    """
    making = Making(source, dictionary, tokens, config, parts, other)
    blocks = list(making.blocks())
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return FeatureTable(
        columns, making.info, tokens.vocabulary, Run(kind="features", id=dictionary.run.id if dictionary.run else "")
    )


class Making:
    """A table on its way: what holds for all of it, and its blocks in turn. Arguments and errors: `collect`."""

    @torch.no_grad()
    def __init__(
        self,
        source: ActivationSource,
        dictionary: Dictionary,
        tokens: TokenStore,
        config: FeaturesConfig,
        parts: Sequence[Part] = (),
        other: Side | None = None,
    ):
        self.source, self.dictionary, self.config = source, dictionary, config
        self.split = tokens.split("heldout")
        self.budget = Budget.of(config, dictionary.n_features, dictionary.d_mlp)
        self.part = merge(parts, config) if parts else read(source, dictionary, tokens, config, other=other)
        self.contexts = self.split[0 : self.part.limit]
        self.allowed = allowed_tokens(tokens, config.logit_min_count, source.n_vocab)
        self.info = TableInfo(
            n_tokens=self.part.n_tokens,
            n_contexts=self.part.limit,
            kinds=tokens.kinds,
            kind_tokens=_kind_tokens(self.contexts, len(tokens.kinds), skip_bos=config.skip_bos),
            window=config.window,
            n_top=config.n_top,
            n_intervals=config.n_intervals,
            n_logit_vocabulary=int(self.allowed.sum()),
            inverse_scale=mean_inverse_scale(source, tokens),
            other=config.other if self.part.other else "",
        )

    @torch.no_grad()
    def blocks(self) -> Iterator[Columns]:
        """All columns of some features after the others."""
        part = self.part
        ablation = self._ablation()
        sizes = self.contexts.tokens.size, part.n_tokens
        own, other = Partners.of(part.firings, *sizes), Partners.of(part.other, *sizes) if part.other else None
        for features in self.budget.blocks(self.config, self.dictionary.n_features, self.dictionary.d_mlp):
            firings = part.firings.block(features)
            columns = self._of_firings(firings, features)
            columns |= partner_columns("feature", firings, own, own=features.start)
            columns |= partner_columns("other", firings, other, own=None) if other else no_partners("other", firings.n_features)
            columns |= self._of_weights(features)
            columns |= {name: values[features] for name, values in ablation.items()}
            yield columns

    def _of_firings(self, firings: Firings, features: slice) -> Columns:
        contexts, maximum = self.contexts, firings.maximum()
        columns = activation_columns(firings, maximum, contexts.kind.ravel(), len(self.info.kinds), self.part.n_tokens)
        columns |= example_columns(firings, maximum, contexts.tokens, contexts.document, self.config.choice, first=features.start)
        neurons = self.part.neurons
        device = neurons.total.device
        total, squares, products = (torch.from_numpy(a).to(device) for a in (*firings.sums(), self.part.products[features]))
        correlation = pearson(Moments(self.part.n_tokens, total, squares), neurons, products)
        return columns | neuron_columns(self.dictionary.W_dec[features], correlation, maximum)

    def _of_weights(self, features: slice) -> Columns:
        W_enc, W_dec = self.dictionary.W_enc[features], self.dictionary.W_dec[features]
        return {
            **logit_columns(self.source, W_dec, self.info.inverse_scale, self.allowed),
            "encoder_bias": self.dictionary.b_enc[features].float().cpu().numpy(),
            "encoder_decoder_cosine": encoder_decoder_cosine(W_enc, W_dec).cpu().numpy(),
        }

    def _ablation(self) -> Columns:
        """Of all features, within what is left of the memory."""
        if not self.config.ablation:
            return unmeasured(self.dictionary.n_features)
        n_firings = len(self.part.firings.token) + (len(self.part.other.token) if self.part.other else 0)
        return ablation_columns(
            self.source,
            self.dictionary.W_dec,
            self.split,
            self.part.firings,
            memory=self.budget.total - self.budget.sums - n_firings * BYTES_EACH,
            contexts_per_batch=self.config.contexts_per_batch,
        )


def activation_columns(
    firings: Firings, maximum: Float[ndarray, " feature"], kind: ndarray, n_kinds: int, n_tokens: int
) -> Columns:
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


def _kind_tokens(contexts: Contexts, n_kinds: int, *, skip_bos: bool) -> tuple[int, ...]:
    kept = contexts.kept(skip_bos=skip_bos)
    counts = np.bincount(contexts.kind[kept].astype(np.int64) + 1, minlength=n_kinds + 1)
    return tuple(counts[1:].tolist())
