"""How good a dictionary is on held-out text: two passes, one for densities and the mean, one for reconstruction and losses."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from sae.accumulate import Moments
from sae.dictionary.base import Dictionary
from sae.errors import ConfigError
from sae.features.passes import Batch, batches, encode, kept_rows, n_contexts, splice
from sae.metrics.density import Firing, active_entries
from sae.metrics.density import summarize as summarize_density
from sae.metrics.losses import ContextLosses, kl_divergence, token_losses
from sae.metrics.losses import summarize as summarize_losses
from sae.metrics.reconstruction import Reconstruction, ReconstructionSums
from sae.metrics.similarity import encoder_decoder_cosine
from sae.shapes import PerFeature, PerNeuron, Rows
from sae.source.site import ActivationSource, Replace
from sae.storage.tokens import Split


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Section `evaluate`."""

    n_tokens: int = 131_072
    """Held-out tokens, in whole contexts, on which reconstruction and losses are measured; fewer where the split is smaller."""
    n_density_tokens: int = 1_000_000
    """The same for densities, dead and ultralow counts, and for the mean activation of mean ablation."""
    ultralow: float = 1e-5
    """A feature that fires, but on a smaller fraction of tokens, is ultralow. Needs 3 / ultralow tokens: method.md, "Metrics"."""
    skip_bos: bool = True
    """Leave BOS out of every statistic and of the splice: the dictionary was not trained on it (harvest.skip_bos)."""
    contexts_per_batch: int = 16
    """Contexts in one forward pass, fewer where the vocabulary is large."""
    n_bootstrap: int = 1000
    """Resamplings of contexts behind each standard error."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        for name in ("n_tokens", "n_density_tokens", "contexts_per_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be at least 1")
        if self.n_bootstrap < 2:
            raise ConfigError(f"'n_bootstrap' = {self.n_bootstrap}: a standard error needs at least 2 resamplings")
        if not 0 < self.ultralow < 1:
            raise ConfigError(f"'ultralow' = {self.ultralow}: must lie between 0 and 1")


class Densities(NamedTuple):
    """Firing of the features and of the neurons themselves, over the same rows."""

    features: Firing
    neurons: Firing
    mean: PerNeuron
    """Mean activation of each neuron over these rows, float32."""


class Spliced(NamedTuple):
    """Reconstruction of the rows, and the transformer's losses with the MLP replaced."""

    reconstruction: Reconstruction
    losses: ContextLosses


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that `evaluate` finds."""

    densities: Densities
    reconstruction: Reconstruction
    losses: ContextLosses
    cosine: PerFeature
    """Of each feature's encoder row with its dictionary vector."""

    def metrics(self, config: EvaluateConfig) -> dict[str, dict[str, Any]]:
        """Numbers by section and name. What each is, is said in method.md, "Metrics"."""
        features = summarize_density(self.densities.features, config.ultralow)
        neurons = summarize_density(self.densities.neurons, config.ultralow)._asdict()
        alive = self.densities.features.n_active > 0
        cosine = float(self.cosine[alive].median()) if alive.any() else float("nan")
        extra = {
            "alive_fraction": features.n_alive / features.n_units,
            "ultralow_threshold": config.ultralow,
            "encoder_decoder_cosine_median": cosine,
        }
        for name in ("n_ultralow", "n_ultralow_paper"):
            neurons.pop(name)
        return {
            "features": features._asdict() | extra,
            "neurons": neurons,
            "reconstruction": self.reconstruction._asdict(),
            "transformer": summarize_losses(self.losses, config.n_bootstrap, config.seed)._asdict(),
        }


@torch.no_grad()
def evaluate(source: ActivationSource, dictionary: Dictionary, split: Split, config: EvaluateConfig) -> Evaluation:
    """Both passes over the held-out `split`. Raises `NumericsError` for NaN in activations."""
    densities = measure_densities(source, dictionary, split, config)
    spliced = measure_splices(source, dictionary, split, densities.mean, config)
    return Evaluation(
        densities=densities,
        reconstruction=spliced.reconstruction,
        losses=spliced.losses,
        cosine=encoder_decoder_cosine(dictionary.W_enc, dictionary.W_dec),
    )


def measure_densities(source: ActivationSource, dictionary: Dictionary, split: Split, config: EvaluateConfig) -> Densities:
    """One pass over `n_density_tokens`, no further than the site."""
    device = torch.device(source.device)
    features, neurons = Firing.zeros(dictionary.n_features, device), Firing.zeros(dictionary.d_mlp, device)
    moments = Moments.zeros(dictionary.d_mlp, device)
    for batch in _batches(source, split, config.n_density_tokens, config, "densities"):
        rows = kept_rows(source.activations(batch.tokens), batch)
        features.add(active_entries(encode(dictionary, rows)), rows.shape[0])
        neurons.add(active_entries(rows), rows.shape[0])
        moments.add(rows)
    return Densities(features, neurons, moments.mean.float())


def measure_splices(
    source: ActivationSource, dictionary: Dictionary, split: Split, mean: PerNeuron, config: EvaluateConfig
) -> Spliced:
    """One pass over `n_tokens`, with four forward passes of each batch: clean, reconstructed, zero- and mean-ablated."""
    sums = ReconstructionSums.zeros(dictionary.d_mlp, source.device)

    def reconstruct(rows: Rows) -> Rows:
        f = encode(dictionary, rows)
        x_hat = dictionary.decode(f)
        sums.add(rows, active_entries(f), x_hat)
        return x_hat

    losses = [
        _batch_losses(source, batch, splice(batch, reconstruct), mean)
        for batch in _batches(source, split, config.n_tokens, config, "losses")
    ]
    per_context = torch.cat(losses, dim=1).cpu().numpy()
    return Spliced(sums.result(), ContextLosses(per_context[0].astype("int64"), *per_context[1:]))


def _batches(source: ActivationSource, split: Split, n_tokens: int, config: EvaluateConfig, label: str) -> Iterator[Batch]:
    limit = n_contexts(split, n_tokens)
    return batches(source, split, limit, contexts_per_batch=config.contexts_per_batch, skip_bos=config.skip_bos, label=label)


@torch.no_grad()
def _batch_losses(source: ActivationSource, batch: Batch, reconstructed: Replace, mean: PerNeuron) -> torch.Tensor:
    """[quantity, context], the fields of a `ContextLosses`, float64: sums over the predictions that count."""
    tokens, counted = batch.tokens, batch.predicted
    log_p = source.logits(tokens).log_softmax(-1)
    log_q = source.logits(tokens, reconstructed).log_softmax(-1)
    parts = (
        counted,
        token_losses(log_p, tokens),
        token_losses(log_q, tokens),
        source.loss(tokens, splice(batch, torch.zeros_like)),
        source.loss(tokens, splice(batch, lambda rows: mean.expand_as(rows))),
        kl_divergence(log_p, log_q)[:, :-1],
    )
    return torch.stack([torch.where(counted, part.double(), 0.0).sum(1) for part in parts])
