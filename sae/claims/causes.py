"""The causal claim: what the feature's direction promotes, what is written when it is pinned, and what is lost without it."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from numpy import ndarray

from sae.causal.ablation import of_like_density
from sae.causal.controls import ablation_controls
from sae.causal.interventions import pin
from sae.causal.sampling import sample_each
from sae.chance import generator
from sae.claims.agreement import FEWEST, QUANTILES
from sae.claims.config import ClaimsConfig
from sae.claims.evidence import Evidence
from sae.claims.figures import Figure, Interval
from sae.errors import ConfigError
from sae.features.logits import allowed_tokens, logit_columns, mean_inverse_scale
from sae.features.side_by_side import Side
from sae.proxies.labels import OfKind
from sae.storage.tokens import NO_DOCUMENT, Contexts, TokenStore

PREFIX = 8
"""Tokens of held-out contexts, BOS included, that are continued."""


class Promoted(NamedTuple):
    """The tokens that every feature makes more likely, as the table lists them (`logit_columns`)."""

    ids: Int[ndarray, "feature rank"]
    """-1 where there are fewer."""


def promoted(store: TokenStore, side: Side, min_count: int = 10) -> Promoted | None:
    """None at a site from which no path expansion leads to the logits."""
    allowed = allowed_tokens(store, min_count, side.source.n_vocab)
    try:
        columns = logit_columns(side.source, side.dictionary.W_dec, mean_inverse_scale(side.source, store), allowed)
    except ConfigError:
        return None
    return Promoted(columns["logit_top_ids"])


def logit_figure(evidence: Evidence, h: int, feature: int, found: Promoted) -> Figure:
    """Of the tokens that the feature promotes most, the share that is of the hypothesis where they occur; the control is what 95
    % of the features that fire stay below."""
    n_vocab = int(max(evidence.token.max(), found.ids.max())) + 1
    count = np.bincount(evidence.token, minlength=n_vocab)
    with np.errstate(invalid="ignore"):
        share = np.bincount(evidence.token, evidence.true[:, h], n_vocab) / count
    of_each = _mean_over(np.append(share, np.nan)[found.ids])  # -1 is the appended last
    others = np.delete(of_each, feature)[np.delete(evidence.firings.n_active, feature) > 0]
    others = others[~np.isnan(others)]
    control = float(np.quantile(others, 0.95)) if len(others) else None
    value = float(of_each[feature])
    return Figure(
        f"share of its {found.ids.shape[1]} most promoted tokens",
        Interval(None if np.isnan(value) else value),
        "95 % of features below",
        Interval(control),
        None if np.isnan(value) or control is None else value > control,
    )


def _mean_over(share: Float64[ndarray, "feature rank"]) -> Float64[ndarray, " feature"]:
    known = ~np.isnan(share)
    return np.where(known.any(1), np.nansum(share, 1) / np.maximum(known.sum(1), 1), np.nan)


def ablation_figures(evidence: Evidence, side: Side, feature: int, config: ClaimsConfig) -> tuple[Figure, ...]:
    """Change of log-likelihood of the token that came, nats, over the tokens on which the feature fires, when it is ablated.
    Nothing at a site with more than the final norm above it."""
    if side.source.readout() is None:
        return ()
    density = evidence.firings.n_active / len(evidence.place)
    others = of_like_density(density, feature)[: config.n_controls].tolist()
    found = ablation_controls(
        side.source,
        side.dictionary,
        evidence.split,
        evidence.firings,
        feature,
        others,
        n_directions=config.n_controls,
        contexts_per_batch=config.contexts_per_batch,
        seed=config.seed,
    )
    value = Interval(None if np.isnan(found.change) else found.change)
    own = found.controls_own[~np.isnan(found.controls_own)]
    return (
        Figure(
            "nats a token lost where it fires, ablated",
            value,
            f"lowest of {len(found.directions)} random directions",
            Interval(float(found.directions.min())) if value.value is not None else Interval(None),
            None if value.value is None else bool(found.change < found.directions.min()),
        ),
        Figure("the same", value, f"median of {len(own)} features of like density", _spread(own), None),
    )


def _spread(values: Float64[ndarray, " value"]) -> Interval:
    """Median, and the range that 95 % of the values lie in."""
    return Interval(*(float(np.quantile(values, q)) for q in (0.5, *QUANTILES))) if len(values) else Interval(None)


@torch.no_grad()
def pinned_figure(
    evidence: Evidence, store: TokenStore, side: Side, h: int, feature: int, control: int, config: ClaimsConfig
) -> Figure:
    """Of the tokens written with the feature held at its largest activation, the share that is of the hypothesis; beside what is
    written with another feature of like density held at its own. Undefined where no text begins without it, and for a hypothesis
    of kinds of document, as what is written is in none."""
    starts = _starts(evidence, h, config)
    if not len(starts) or isinstance(evidence.hypotheses[h].proxy, OfKind):
        return Figure("share of what is written, pinned", Interval(None), "another feature pinned", Interval(None), None)
    largest = evidence.firings.maximum()
    shares = []
    for which in (feature, control):
        change = pin(side.dictionary, which, float(largest[which]))
        written = sample_each(
            side.source,
            starts.tolist(),
            config.continued_tokens,
            seeds=[config.seed + i for i in range(len(starts))],
            change=change,
            bos=store.bos,
            n_vocab=store.n_vocab,
        )
        shares.append(_share_true(evidence, store, h, starts, np.array(written)))
    difference = _resampled(shares[0] - shares[1], config)
    return Figure(
        "share of what is written, pinned",
        _mean_interval(shares[0], config),
        "another feature pinned",
        _mean_interval(shares[1], config),
        bool(np.quantile(difference, QUANTILES[0]) > 0) if len(starts) >= FEWEST else None,
    )


def _starts(evidence: Evidence, h: int, config: ClaimsConfig) -> Int[ndarray, "text position"]:
    """Beginnings of contexts with nothing of the hypothesis in them."""
    length, n = evidence.split.context_length, min(PREFIX, evidence.split.context_length)
    marked = np.zeros(evidence.n_contexts * length, bool)
    marked[evidence.place[evidence.true[:, h]]] = True
    free = np.flatnonzero(~marked.reshape(-1, length)[:, :n].any(1))
    chosen = generator(config.seed, "texts to continue").permutation(free)[: config.n_continuations]
    tokens = [evidence.split[int(i) : int(i) + 1].tokens[0, :n].astype(np.int64) for i in chosen]
    return np.stack(tokens) if tokens else np.zeros((0, n), np.int64)


def _share_true(
    evidence: Evidence, store: TokenStore, h: int, starts: Int[ndarray, "text _"], written: Int[ndarray, "text token"]
) -> Float[ndarray, " text"]:
    tokens = np.concatenate([starts, written], axis=1).astype(np.uint32)
    document = np.zeros(tokens.shape, np.int32)
    if store.bos is not None:
        document[tokens == store.bos] = NO_DOCUMENT
    contexts = Contexts.whole(tokens, document, np.where(document == NO_DOCUMENT, -1, 0).astype(np.int16))
    scores = evidence.text.scorers[h](contexts)[:, starts.shape[1] :]
    share: Float[ndarray, " text"] = (scores > 0).mean(1)
    return share


def _mean_interval(values: Float[ndarray, " text"], config: ClaimsConfig) -> Interval:
    low, high = np.quantile(_resampled(values, config), QUANTILES)
    return Interval(float(values.mean()), float(low), float(high))


def _resampled(values: Float[ndarray, " text"], config: ClaimsConfig) -> Float64[ndarray, " draw"]:
    chance = generator(config.seed, "texts")
    means: Float64[ndarray, " draw"] = values[chance.integers(0, len(values), (config.n_bootstrap, len(values)))].mean(1)
    return means
