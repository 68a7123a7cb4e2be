"""Whether two dictionaries, of two transformers or of one, learned the same features (Towards Monosemanticity, "Universality").

Both read the same held-out tokens. Every correlation is exact, over all tokens of the pass: from sums of products, never from a
sample of them. What fires is in memory (12 bytes each, twice for the second dictionary), a matrix of features by tokens nowhere.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from sae.chance import generator
from sae.errors import ConfigError, CorpusError
from sae.features.correlations import Best, Block, best_of, by_token, feature_blocks, moments
from sae.features.logits import allowed_tokens, mean_inverse_scale
from sae.features.pairs import Effects, Reader, effects
from sae.features.passes import n_contexts
from sae.features.side_by_side import NeuronSums, Reading, Side, read_both
from sae.metrics.intervals import median_interval
from sae.metrics.similarity import pearson
from sae.storage.tokens import TokenStore


@dataclass(frozen=True, kw_only=True)
class UniversalityConfig:
    """Section `universality`."""

    pairs: list[tuple[str, str]] = field(default_factory=list)
    """Dictionaries to compare, such as [[A/1, B/1]]: of each feature of the first the best of the second, and back."""
    n_tokens: int = 393_216
    """Held-out tokens to read, in whole contexts; all of them where the split is smaller."""
    min_active: int = 10
    """Features that fire on fewer of these tokens are left out of the medians; as partners they stay."""
    matching_pairs: int = 2**26
    """Pairs of features, at most, for which the one-to-one matching is made, which needs the whole matrix (20 bytes a pair)."""
    logit_min_count: int = 10
    """Tokens rarer than this in the train split are left out where logit weights are compared."""
    skip_bos: bool = True
    """Leave BOS out of every statistic."""
    contexts_per_batch: int = 16
    """Contexts in one forward pass."""
    memory_mb: int = 1024
    """Memory for what fires in each of the two dictionaries, 48 bytes for each activation above 0; what else is held is 50 MB and
    the matrix of the one-to-one matching."""
    n_bootstrap: int = 1000
    """Resamplings of features behind each interval."""
    seed: int = 0
    """Of the shuffle of tokens, the shuffle of pairs, and the bootstrap."""

    def __post_init__(self) -> None:
        for name in ("n_tokens", "contexts_per_batch", "memory_mb", "min_active"):
            if getattr(self, name) < 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be at least 1")
        if self.n_bootstrap < 2:
            raise ConfigError(f"'n_bootstrap' = {self.n_bootstrap}: an interval needs at least 2 resamplings")


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Every unit (feature or neuron) of the first side with those of the second, by Pearson correlation of activations."""

    counted: Bool[ndarray, " unit"]
    """Units that medians are taken over: features that fired on `min_active` tokens, neurons that vary."""
    counted_back: Bool[ndarray, " other"]
    """The same of the second side."""
    best: Best
    null: Best
    """The same with the second side's contexts shuffled: as many candidates, and nothing to find."""

    def by_name(self) -> dict[str, Float[ndarray, " _"]]:
        """Correlations of the units that count, by what they are."""
        found = {}
        for best, suffix in ((self.best, ""), (self.null, ", shuffled tokens")):
            found[f"best{suffix}"] = best.correlation[self.counted]
            found[f"best of second to first{suffix}"] = best.backward[self.counted_back]
            if best.matched_correlation is not None:
                found[f"one to one{suffix}"] = best.matched_correlation[self.counted]
        return found


@dataclass(frozen=True, kw_only=True)
class Universality:
    """What `compare` finds."""

    first: str
    second: str
    n_tokens: int
    """Positions that counted."""
    n_contexts: int
    roll: int
    """In the null context c of the first side meets context c + `roll` of the second, modulo all."""
    n_active: Int[ndarray, " feature"]
    """Tokens on which each feature of the first fires."""
    features: Matches
    neurons: Matches | None
    """None where both dictionaries are of one transformer, whose neurons are their own best match."""
    effects: Effects
    """Of each feature with its best partner."""
    shuffled: Effects
    """Of each feature with the best partner of another one: the control."""

    def by_name(self) -> dict[str, Float[ndarray, " _"]]:
        """Every statistic of the units that count, by what it is."""
        found = {f"features, {name}": values for name, values in self.features.by_name().items()}
        for pairs, name in ((self.effects, "best pairs"), (self.shuffled, "shuffled pairs")):
            found[f"features, logit weights of {name}"] = pairs.logit[self.features.counted]
            found[f"features, attribution of {name}"] = pairs.attribution[self.features.counted]
        if self.neurons is not None:
            found |= {f"neurons, {name}": values for name, values in self.neurons.by_name().items()}
        return found

    def summary(self, config: UniversalityConfig) -> dict[str, Any]:
        """Counts, and for each statistic `n`, `median`, and the ends of its 95 % interval over resampled units, `low`, `high`."""
        best, null = (found.correlation[self.features.counted] for found in (self.features.best, self.features.null))
        above = float((best > null.max()).mean()) if len(best) else None
        return {
            "n_tokens": self.n_tokens,
            "n_features": len(self.n_active),
            "n_counted": int(self.features.counted.sum()),
            "share_above_null": above,
            "medians": {
                name: median_interval(values, config.n_bootstrap, config.seed)._asdict()
                for name, values in self.by_name().items()
            },
        }


def compare(first: Side, second: Side, tokens: TokenStore, config: UniversalityConfig) -> Universality:
    """`first`'s features and neurons with `second`'s, over held-out tokens. Two sides of one transformer share one `source`.

    Raises `ConfigError` where `memory_mb` does not hold what fires, `CorpusError` for fewer than two contexts,
    `NumericsError` for NaN in activations."""
    split = tokens.split("heldout")
    limit = n_contexts(split, config.n_tokens)
    if limit < 2:
        raise CorpusError("one held-out context cannot be shuffled; raise universality.n_tokens or tokens.heldout_fraction")
    chance = generator(config.seed, "universality")
    roll = int(chance.integers(max(1, limit // 4), limit - limit // 4))  # far from home: a document's contexts lie together
    reading = read_both(
        (first, second),
        split,
        limit,
        roll,
        contexts_per_batch=config.contexts_per_batch,
        skip_bos=config.skip_bos,
        memory_mb=config.memory_mb,
    )
    features = match_features(reading, roll * split.context_length, config)
    partner = features.best.partner
    shuffled = np.full_like(partner, -1)
    paired = chance.permutation(np.flatnonzero(partner >= 0))
    shuffled[paired] = np.roll(partner[paired], 1)
    following = np.full(reading.tokens.shape, -1, np.int64)
    following[:, :-1] = reading.tokens[:, 1:]
    n_following = int(reading.kept[:, :-1].sum())
    sides = [
        Reader(side.source, side.dictionary, mean_inverse_scale(side.source, tokens), firings)
        for side, firings in zip((first, second), reading.firings, strict=True)
    ]
    allowed = allowed_tokens(tokens, config.logit_min_count, first.source.n_vocab)
    of_best, of_shuffled = (
        effects(sides[0], sides[1], pairs, allowed, following.ravel(), n_following) for pairs in (partner, shuffled)
    )
    return Universality(
        first=first.id,
        second=second.id,
        n_tokens=int(reading.kept.sum()),
        n_contexts=limit,
        roll=roll,
        n_active=reading.firings[0].n_active,
        features=features,
        neurons=None if reading.neurons is None else match_neurons(reading.neurons),
        effects=of_best,
        shuffled=of_shuffled,
    )


def match_features(reading: Reading, roll: int, config: UniversalityConfig) -> Matches:
    """The best partner of every feature, for the true tokens and for those `roll` places on."""
    first, second = reading.firings
    n_counted = int(reading.kept.sum())
    sums = [moments(firings, n_counted) for firings in (first, second)]
    alive = [torch.from_numpy(firings.n_active > 0) for firings in (first, second)]
    match = first.n_features * second.n_features <= config.matching_pairs
    tokenwise = by_token(second, reading.tokens.size)
    best, null = (best_of(feature_blocks(first, tokenwise, sums[0], sums[1], roll=by), *alive, match=match) for by in (0, roll))
    counted, back = (firings.n_active >= config.min_active for firings in (first, second))
    return Matches(counted=counted, counted_back=back, best=best, null=null)


def match_neurons(sums: NeuronSums) -> Matches:
    """The same for the neurons, whose matrix is small."""
    alive = [side.squared_deviation.cpu() > 0 for side in (sums.first, sums.second)]
    best, null = (
        best_of(iter([Block(0, pearson(sums.first, sums.second, products).cpu())]), *alive, match=True)
        for products in (sums.products, sums.shuffled)
    )
    return Matches(counted=alive[0].numpy(), counted_back=alive[1].numpy(), best=best, null=null)


def told(found: Universality, summary: dict[str, Any]) -> str:
    """The medians of its `summary` as lines to print."""
    lines = [
        f"{found.first} with {found.second}: {summary['n_counted']:,} of {summary['n_features']:,} features, over all of "
        f"{found.n_tokens:,} held-out tokens; medians, with 95 % intervals over units"
    ]
    for name, median in summary["medians"].items():
        value = "none" if median["median"] is None else f"{median['median']:.3f}  [{median['low']:.3f}, {median['high']:.3f}]"
        lines.append(f"  {name:<56}{value}")
    return "\n".join(lines)
