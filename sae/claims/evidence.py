"""What the claims are judged by: the best units, chosen on some contexts, and everything that fires on others."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from numpy import ndarray

from sae.chance import generator
from sae.claims.agreement import Tokens
from sae.claims.config import ClaimsConfig
from sae.errors import ConfigError, CorpusError
from sae.features.firings import Firings, FiringsReader
from sae.features.passes import batches, encode, kept_rows
from sae.features.side_by_side import Side
from sae.metrics.density import active_entries
from sae.proxies.agreement import Correlations
from sae.proxies.hypotheses import Hypothesis
from sae.proxies.survey import Population, Text, best_unit, survey
from sae.storage.tokens import Split, TokenStore
from sae.ties import first_best


class Best(NamedTuple):
    """Units that correlate best with a hypothesis, as it reads its score."""

    feature: int
    neuron: int


class Evidence(NamedTuple):
    """Of all hypotheses, over the first contexts of the held-out split."""

    text: Text
    split: Split
    n_contexts: int
    n_chosen_on: int
    """Tokens of the contexts after these, on which the best were chosen."""
    best: list[Best]
    closest: list[tuple[int, float]]
    """Of each best feature the neuron that correlates most with it, and how much."""
    firings: Firings
    place: Int[ndarray, " token"]
    """Of the tokens that count, among all positions of the contexts, counted through."""
    token: Int[ndarray, " token"]
    """Their ids."""
    score: Float64[ndarray, "token hypothesis"]
    true: Bool[ndarray, "token hypothesis"]
    neurons: dict[int, Float[ndarray, " token"]]
    """Activations of the neurons that were named."""

    @property
    def hypotheses(self) -> list[Hypothesis]:
        return self.text.hypotheses

    def tokens(self, h: int) -> Tokens:
        """As hypothesis `h` sees them."""
        return Tokens(self.place // self.split.context_length, self.score[:, h], self.true[:, h])

    def feature(self, feature: int) -> Float[ndarray, " token"]:
        """Its activation on every token that counts."""
        values = np.zeros(self.n_contexts * self.split.context_length, np.float32)
        at, value = self.firings.of(feature)
        values[at] = value
        return values[self.place]


@torch.no_grad()
def gather(store: TokenStore, side: Side, config: ClaimsConfig) -> Evidence:
    """Chosen on other contexts than they are judged by: the best of thousands would look better than it is where it was chosen.

    Raises `CorpusError` for a split of one context, `ConfigError` where no unit varies with a hypothesis, or no token that it is
    tried on is of it, or each is."""
    split = store.split("heldout")
    if split.n_contexts < 2:
        raise CorpusError(
            f"the held-out split of {store.path} holds {split.n_contexts} context; a study takes two at least, one to choose the "
            "feature on and one to try it: give more text or raise tokens.heldout_fraction"
        )
    limit = min(split.n_contexts // 2, max(1, config.n_tokens // split.context_length))
    choice = Text(store, config.proxies(), chosen=_choice(split, limit, config))
    found = survey(side.source, side.dictionary, choice, 1)
    _check_tried(found.n_positive, found.n_tokens, choice, store, config, "chosen", "claims.n_choice_tokens (--choice-tokens)")
    best = [_best(found.populations, h, hypothesis.name) for h, hypothesis in enumerate(choice.hypotheses)]
    text = Text(store, config.proxies(), chosen=np.arange(split.n_contexts) < limit)
    passed = _pass(text, side, [one.feature for one in best], config, n_positions=limit * split.context_length)
    wanted = sorted({*(one.neuron for one in best), *(neuron for neuron, _ in passed.closest)})
    scores = passed.score
    _check_tried((scores > 0).sum(0), len(scores), choice, store, config, "tried", "claims.n_tokens (--tokens)")
    return Evidence(
        text=text,
        split=split,
        n_contexts=limit,
        n_chosen_on=found.n_tokens,
        best=best,
        closest=passed.closest,
        firings=passed.firings,
        place=passed.place,
        token=passed.token,
        score=text.read(scores),
        true=scores > 0,
        neurons=_neurons(wanted, side, split, limit, config),
    )


class _Passed(NamedTuple):
    firings: Firings
    closest: list[tuple[int, float]]
    place: ndarray
    token: ndarray
    score: ndarray


def _pass(text: Text, side: Side, features: list[int], config: ClaimsConfig, *, n_positions: int) -> _Passed:
    """Over all tokens of `text`: what fires, and how `features` correlate with every neuron."""
    reader = FiringsReader(side.dictionary.n_features, config.memory_mb * 2**20, "claims")
    chosen = torch.tensor(features, device=side.source.device)
    with_neurons = Correlations(side.source.d_mlp, len(features), side.source.device)
    parts: list[tuple[ndarray, ndarray, ndarray]] = []
    for batch in text.batches(side.source, "claims: activations"):
        f = encode(side.dictionary, batch.rows)
        reader.add(active_entries(f), batch.place, fraction_read=(batch.place[-1] + 1) / n_positions)
        with_neurons.add(batch.rows, f[:, chosen].double())
        parts.append((batch.place, batch.token, batch.scores))
    place, token, score = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    correlation = np.nan_to_num(with_neurons.pearson(), nan=-1.0)
    closest = [(int(k), float(row[k])) for row, k in zip(correlation, first_best(correlation, axis=1), strict=True)]
    return _Passed(reader.result(), closest, place, token.astype(np.int64), score)


def _neurons(
    neurons: list[int], side: Side, split: Split, limit: int, config: ClaimsConfig
) -> dict[int, Float[ndarray, " token"]]:
    """Activations of some neurons at the tokens that count."""
    read = batches(
        side.source, split, limit, label="claims: neurons", contexts_per_batch=config.contexts_per_batch, skip_bos=True
    )
    found = [kept_rows(side.source.activations(batch.tokens), batch)[:, neurons].cpu().numpy() for batch in read]
    return dict(zip(neurons, np.concatenate(found).T, strict=True))


def _choice(split: Split, limit: int, config: ClaimsConfig) -> Bool[ndarray, " n_contexts"]:
    """At random, of the contexts from `limit` on."""
    rest = split.n_contexts - limit
    wanted = min(rest, max(1, -(-config.n_choice_tokens // split.context_length)))
    chosen = np.zeros(split.n_contexts, bool)
    chosen[limit + generator(config.seed, "contexts to choose on").choice(rest, wanted, replace=False)] = True
    return chosen


def _check_tried(
    n_true: Int[ndarray, " hypothesis"], n: int, text: Text, store: TokenStore, config: ClaimsConfig, verb: str, what: str
) -> None:
    """Raises `ConfigError` for a hypothesis of which the `n` tokens hold none, or of which each is: nothing is judged by them."""
    for h, hypothesis in enumerate(text.hypotheses):
        if n_true[h] not in (0, n):
            continue
        split = store.split("heldout")
        held = "none" if n_true[h] == 0 else "every one"
        everywhere = int(Text(store, config.proxies(), chosen=np.ones(split.n_contexts, bool)).n_positive()[h])
        raise ConfigError(
            f"of the {n:,} tokens on which a feature for '{hypothesis.name}' is {verb} {held} "
            f"is of the hypothesis, and of all {split.n_tokens:,} held-out ones {everywhere:,}: raise {what}, or leave it out"
        )


def _best(populations: dict[str, Population], h: int, name: str) -> Best:
    feature, neuron = (best_unit(populations[name].pearson[0, h]) for name in ("features", "neurons"))
    if feature is None or neuron is None:
        raise ConfigError(
            f"no unit varies with the hypothesis '{name}' on the text that it is chosen on, which may hold nothing of it, or "
            "nothing else: raise claims.n_choice_tokens, or leave it out; or no feature of the dictionary fires at all (sae info)"
        )
    return Best(feature, neuron)
