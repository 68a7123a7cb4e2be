"""Finite-state automata among the features of one dictionary (Towards Monosemanticity, "Finite State Automata"): which feature
makes tokens likelier on which another then fires, and does it fire there. docs/method.md, "Automata", defines every number.

Both numbers of every pair are exact, from one reading of the text; the whole matrix of pairs is never in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from sae.automata.exchange import Exchange, Targets
from sae.automata.token_effects import Effects, readout_or_raise, token_effects, token_means
from sae.automata.transitions import Steps, steps_of
from sae.chance import generator
from sae.dictionary.base import Dictionary
from sae.errors import ConfigError
from sae.features.passes import n_contexts
from sae.features.together import read_text
from sae.metrics.discovery import decoy_threshold
from sae.source.site import ActivationSource
from sae.storage.tokens import TokenStore

BLOCK = 256
"""Features whose pairs with all are in memory at once: at 16,384 features some 300 MiB."""
LOWEST = 3.0
"""Standard deviations above its null below which the observed number of a pair is not kept: no threshold was seen below it."""


@dataclass(frozen=True, kw_only=True)
class AutomataConfig:
    """Section `automata`."""

    n_tokens: int = 131_072
    """Held-out tokens to read, in whole contexts; all of them where the split is smaller."""
    min_count: int = 10
    """Steps, at least, on which both features of an edge fire, one after the other."""
    false_discovery: float = 0.01
    """Share of edges, at most, that would be there by chance, for each of the two numbers by itself."""
    firings_per_feature: int = 0
    """Firings of each feature that are ablated, drawn at random; 0: all of them, which is exact."""
    frequency_group: int = 64
    """Tokens of like frequency among which the causal null exchanges them."""
    n_listed: int = 20
    """Self-loops, two-cycles, longer cycles and chains that are listed, of each the strongest."""
    longest: int = 8
    """Features of the longest chain that is listed."""
    skip_bos: bool = True
    """Leave BOS out of every statistic."""
    contexts_per_batch: int = 16
    """Contexts in one forward pass."""
    memory_mb: int = 1024
    """Memory for what fires (48 bytes for each activation above 0), and again as much for effects on tokens (4 bytes a feature
    and token of the vocabulary, and 8 more for as many features as fit, the text being read once for each lot)."""
    seed: int = 0
    """Of both nulls."""

    def __post_init__(self) -> None:
        for name in ("n_tokens", "min_count", "n_listed", "contexts_per_batch", "memory_mb"):
            if getattr(self, name) < 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be at least 1")
        if not 0 < self.false_discovery < 1:
            raise ConfigError(f"'false_discovery' = {self.false_discovery}: must lie between 0 and 1")
        if self.firings_per_feature < 0:
            raise ConfigError(f"'firings_per_feature' = {self.firings_per_feature}: must not be negative (0: all)")
        if self.frequency_group < 2 or self.longest < 3:
            raise ConfigError(
                f"'frequency_group' = {self.frequency_group}, 'longest' = {self.longest}: must be at least 2 and at least 3"
            )


class Pairs(NamedTuple):
    """Numbers of some pairs of features, first -> second."""

    first: Int[ndarray, " pair"]
    second: Int[ndarray, " pair"]
    n: Float[ndarray, " pair"]
    """Steps on which the second fires right after the first."""
    expected: Float[ndarray, " pair"]
    """Mean of n over all orders of the tokens of each context: the share of what the contexts are about."""
    independent: Float[ndarray, " pair"]
    """What n would be were the two independent: of the first's steps the share of the second among all."""
    lift: Float[ndarray, " pair"]
    """P(second at the next token | first) / P(second): n / independent."""
    observed: Float[ndarray, " pair"]
    """(n − expected) / its standard deviation over those orders."""
    observed_shuffled: Float[ndarray, " pair"]
    """The same for one such order."""
    n_shuffled: Float[ndarray, " pair"]
    """n there."""
    effect: Float[ndarray, " pair"]
    """E_ij: Σ over tokens of the change of probability by the first, times the second's mean activation on that token."""
    relative: Float[ndarray, " pair"]
    """E_ij over the second's mean activation on all tokens."""
    causal: Float[ndarray, " pair"]
    """(E_ij − mean) / standard deviation, both over all exchanges of tokens of like frequency."""
    causal_shuffled: Float[ndarray, " pair"]
    """The same for one such exchange."""

    def take(self, chosen: ndarray) -> "Pairs":
        """Some of them: by a mask or by places."""
        return Pairs(*(part[chosen] for part in self))


@dataclass(frozen=True, kw_only=True)
class Automata:
    """What `find_automata` finds."""

    id: str
    n_tokens: int
    """Positions that counted."""
    n_steps: int
    n_active: Int[ndarray, " feature"]
    sampled: bool
    """Whether effects are of a sample of firings (`firings_per_feature`); counts never are."""
    pairs: Pairs
    """All whose observed number, or that of the null, is at least `LOWEST`, with `min_count` steps; and all among `watched`
    features."""
    least: tuple[float, float]
    """Of an edge, the least observed and the least causal number, in standard deviations; infinity where none can be told from
    chance."""
    min_count: int
    means: Float[ndarray, "feature vocab"]
    """Mean activation on each token."""
    token_count: Int[ndarray, " vocab"]
    """How often each token occurs in what was read."""

    def mask(self, *, shuffled_order: bool = False, shuffled_tokens: bool = False) -> Bool[ndarray, " pair"]:
        """Which pairs would be edges, by the true numbers or by those of either null."""
        p = self.pairs
        observed, count = (p.observed_shuffled, p.n_shuffled) if shuffled_order else (p.observed, p.n)
        causal = p.causal_shuffled if shuffled_tokens else p.causal
        enough = (count >= self.min_count) & (count > p.independent)
        return enough & (observed >= self.least[0]) & (causal >= self.least[1])

    @property
    def edges(self) -> Pairs:
        return self.pairs.take(self.mask())


def find_automata(
    source: ActivationSource,
    dictionary: Dictionary,
    tokens: TokenStore,
    config: AutomataConfig,
    *,
    id: str = "",
    watched: Bool[ndarray, " vocab"] | None = None,
) -> Automata:
    """The edges between the features of `dictionary`, from held-out text. Pairs of features of which half the activation lies on
    `watched` tokens are kept whatever their numbers.

    Raises `ConfigError` where `memory_mb` is too little, the site is not in the last layer, or the device is no CPU;
    `CorpusError` for contexts without two neighbouring tokens; `NumericsError` for NaN in activations."""
    readout_or_raise(source)
    split = tokens.split("heldout")
    limit, budget = n_contexts(split, config.n_tokens), config.memory_mb * 2**20
    table = 4 * dictionary.n_features * source.n_vocab
    if table + 8 * source.n_vocab > budget:
        raise ConfigError(
            f"automata.memory_mb = {config.memory_mb}: the mean activations of {dictionary.n_features:,} features on "
            f"{source.n_vocab:,} tokens take {table / 2**20:,.0f} alone; raise it to twice that"
        )
    text = read_text(
        source,
        [dictionary],
        split,
        limit,
        section="automata",
        contexts_per_batch=config.contexts_per_batch,
        skip_bos=config.skip_bos,
        memory_mb=config.memory_mb,
    )
    firings, chance = text.firings[0], generator(config.seed, "automata")
    means, count = token_means(text, firings, source.n_vocab)
    steps = steps_of(text, firings, chance)
    exchange = Exchange.of(count, config.frequency_group, chance)
    effects = token_effects(
        source,
        dictionary.W_dec,
        split,
        firings,
        at_most=config.firings_per_feature or None,
        memory=budget - table,
        contexts_per_batch=config.contexts_per_batch,
    )
    keep = np.zeros(firings.n_features, bool) if watched is None else share_on(means, count, watched) >= 0.5
    pairs = survey(effects, steps, Targets.of(means, count, firings, exchange), exchange, config.min_count, keep)
    return Automata(
        id=id,
        n_tokens=int(text.kept.sum()),
        n_steps=steps.n_steps,
        n_active=firings.n_active,
        sampled=bool(config.firings_per_feature) and int(steps.first.n_active.max(initial=0)) > config.firings_per_feature,
        pairs=pairs,
        least=thresholds(pairs, config),
        min_count=config.min_count,
        means=means,
        token_count=count,
    )


def share_on(
    means: Float[ndarray, "feature vocab"], count: Int[ndarray, " vocab"], tokens: Bool[ndarray, " vocab"]
) -> Float[ndarray, " feature"]:
    """Of each feature's activation, summed over the text, the share on some tokens; 0 for a feature that never fired."""
    total = means @ count.astype(np.float32)
    return np.divide(means @ (count * tokens).astype(np.float32), total, out=np.zeros_like(total), where=total > 0)


def thresholds(pairs: Pairs, config: AutomataConfig) -> tuple[float, float]:
    """The least observed number at which at most `false_discovery` of the pairs would be there in another order of the tokens;
    then, of the pairs above it, the least causal one at which as many would be there with other tokens."""
    enough, by_chance = pairs.n >= config.min_count, pairs.n_shuffled >= config.min_count
    observed = decoy_threshold(pairs.observed[enough], pairs.observed_shuffled[by_chance], config.false_discovery)
    passed = enough & (pairs.observed >= observed) & (pairs.lift > 1)
    return observed, decoy_threshold(pairs.causal[passed], pairs.causal_shuffled[passed], config.false_discovery)


def survey(
    effects: Iterator[Effects],
    steps: Steps,
    targets: Targets,
    exchange: Exchange,
    min_count: int,
    watched: Bool[ndarray, " feature"],
) -> Pairs:
    """Every pair's numbers, a block of first features at a time; those that could be edges, or are among the `watched`, are
    kept."""
    found = []
    for lot in effects:
        for begin in range(0, len(lot.change), BLOCK):
            change = lot.change[begin : begin + BLOCK, exchange.token]
            found.append(_block(lot.first + begin, change, steps, targets, exchange, min_count, watched))
    return Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _block(
    first: int,
    change: Float[ndarray, "unit seen"],
    steps: Steps,
    targets: Targets,
    exchange: Exchange,
    min_count: int,
    watched: Bool[ndarray, " feature"],
) -> Pairs:
    """The pairs of the features `first`, `first + 1`, ... with all."""
    end = first + len(change)
    count, shuffled, expected, deviation = steps.rows(first, end)
    observed, observed_shuffled = (_standard(part, expected, deviation) for part in (count, shuffled))
    kept = ((count >= min_count) & (observed >= LOWEST)) | ((shuffled >= min_count) & (observed_shuffled >= LOWEST))
    kept |= watched[first:end, None] & watched
    i, j = np.nonzero(kept)
    effect, exchanged = (_product(part, targets.means)[i, j] for part in (change, change[:, exchange.permuted]))
    total, squares = exchange.sums(change)
    mean = ((total / exchange.size) @ targets.total.T)[i, j]
    spread = np.sqrt((squares / np.maximum(exchange.size - 1, 1)) @ targets.squares.T)[i, j]
    chance = steps.first.n_active[first:end].astype(np.float64)[i] * steps.second.n_active[j] / steps.n_steps
    return Pairs(
        first=i + first,
        second=j,
        n=count[i, j],
        expected=expected[i, j],
        independent=chance,
        lift=np.divide(count[i, j], chance, out=np.zeros(len(i)), where=chance > 0),
        observed=observed[i, j],
        observed_shuffled=observed_shuffled[i, j],
        n_shuffled=shuffled[i, j],
        effect=effect,
        relative=effect / targets.mean[j],
        causal=_standard(effect, mean, spread),
        causal_shuffled=_standard(exchanged, mean, spread),
    )


def _product(a: Float[ndarray, "unit seen"], b: Float[ndarray, "feature seen"]) -> Float[ndarray, "unit feature"]:
    return (torch.from_numpy(np.ascontiguousarray(a)) @ torch.from_numpy(b).T).double().numpy()


def _standard(value: ndarray, mean: ndarray, deviation: ndarray) -> ndarray:
    """0 where nothing varies."""
    return np.divide(value - mean, deviation, out=np.zeros_like(mean), where=deviation > 0)
