"""One unit in words: its rule, which tokens that says are promoted, and how well it tells the unit on other documents."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64
from numpy import ndarray

from sae.chance import generator
from sae.interpret.grams import Grams
from sae.interpret.promoted import follow
from sae.interpret.ranks import auc, balanced_accuracy, spearman
from sae.interpret.survey import Text, fit_unit, single_token
from sae.interpret.truth import firings_of
from sae.metrics.intervals import COVERAGE
from sae.shown import printable

N_LINES = 8
"""Grams and tokens that are told."""
N_BOOTSTRAP = 100
"""Resamplings of documents; each takes some 0.05 s over 200,000 tokens."""
RARE = 1e-4
"""Tokens of a smaller share are set in relation to this one: what comes twice says little."""


class GramLine(NamedTuple):
    """A gram of a rule."""

    tokens: tuple[int, ...]
    """Ids."""
    mean: float
    """The activation that is predicted for a token that ends in it."""
    rate: float
    """Fraction of such fitting tokens on which the unit fires."""
    n: int
    """Of them."""


class Interval(NamedTuple):
    """A score with quantiles 2.5 % and 97.5 % over resamplings of whole scoring documents, the rule staying as it is."""

    value: float
    low: float
    high: float
    chance: float


class UnitRule(NamedTuple):
    """One rule of one unit."""

    lines: list[GramLine]
    """The grams that predict the most."""
    after: Int64[ndarray, " token"]
    """Ids of the tokens that follow the tokens on which it predicts much, above what comes at all: what it says is promoted."""
    scores: dict[str, Interval]


class UnitTold(NamedTuple):
    """What a unit is told by."""

    unit: int
    n_fitting: int
    """Fitting tokens on which it fires."""
    n_scoring: int
    single_token: bool
    rules: dict[str, UnitRule]


def unit_told(text: Text, population: str, unit: int) -> UnitTold:
    """Both rules of a unit of `population` (`features` or `neurons`), over all tokens of either side."""
    token, value = firings_of(text.evidence, population, unit)
    scoring = text.evidence.scoring[token]
    truth = np.zeros(len(text.tokens_moved))
    truth[text.place[token[scoring]]] = value[scoring]
    document = text.evidence.contexts.document.ravel()[text.evidence.scored]
    rules = {}
    for name, predicted in fit_unit(text, population, unit).items():
        mean, rate, leaf = predicted.rule.mean, predicted.rule.rate, predicted.side.leaf
        following = text.following[name]
        often = follow(following, mean[None].astype(np.float32))[0]
        lift = often / max(float(often.sum()), 1e-30) / np.maximum(following.share, RARE)
        scores = scores_of(mean[leaf], predicted.fires[leaf], truth, document)
        rules[name] = UnitRule(_lines(text, text.grams[name], mean, rate), np.argsort(-lift, kind="stable")[:N_LINES], scores)
    return UnitTold(
        unit, int(text.evidence.fitting[token].sum()), int(scoring.sum()), single_token(text, population, unit), rules
    )


def scores_of(
    predicted: Float64[ndarray, " token"],
    said: Bool[ndarray, " token"],
    truth: Float64[ndarray, " token"],
    document: Int[ndarray, " token"],
    n_bootstrap: int = N_BOOTSTRAP,
) -> dict[str, Interval]:
    """Spearman, AUC and balanced accuracy over tokens, as `rules.Scores` has them. NaN where the unit never fires."""
    which = np.unique(document, return_inverse=True)[1]
    rng, n = generator(0, "documents of a unit"), int(which.max(initial=-1)) + 1
    weights = [np.bincount(rng.integers(0, n, n), minlength=n)[which].astype(np.float64) for _ in range(n_bootstrap)]
    drawn = np.array([_scores(predicted, said, truth, weight) for weight in (np.ones(len(truth)), *weights)])
    low, high = (np.array([_quantile(column, q) for column in drawn[1:].T]) for q in ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2))
    names = (("spearman", 0.0), ("token_auc", 0.5), ("token_accuracy", 0.5))
    return {name: Interval(float(drawn[0][i]), float(low[i]), float(high[i]), by) for i, (name, by) in enumerate(names)}


def _quantile(values: Float64[ndarray, " resampling"], q: float) -> float:
    """Of those that are defined: a resampling may lack the documents in which the unit fires."""
    known = values[~np.isnan(values)]
    return float(np.quantile(known, q)) if len(known) else np.nan


def _scores(
    predicted: Float64[ndarray, " token"],
    said: Bool[ndarray, " token"],
    truth: Float64[ndarray, " token"],
    weight: Float64[ndarray, " token"],
) -> tuple[float, float, float]:
    fires = truth > 0
    hit, all_said, positive = (float(weight[mask].sum()) for mask in (fires & said, said, fires))
    accuracy = balanced_accuracy(hit, all_said, positive, float(weight.sum()))
    return spearman(predicted, truth, weight), auc(predicted, fires, weight), accuracy


def _lines(text: Text, grams: Grams, mean: Float64[ndarray, " gram"], rate: Float64[ndarray, " gram"]) -> list[GramLine]:
    """The grams of the largest means; one that only has more before a gram already told, and predicts no more, is left out."""
    ids = text.evidence.contexts.tokens.ravel()
    told: list[GramLine] = []
    for gram in np.argsort(-mean, kind="stable"):
        if len(told) == N_LINES or mean[gram] <= 0:
            break
        length, end = (int(i[0]) for i in np.nonzero(grams.member == gram))
        tokens = tuple(int(i) for i in ids[end - length + 1 : end + 1])
        if not any(tokens[-len(line.tokens) :] == line.tokens for line in told if line.tokens):
            told.append(GramLine(tokens, float(mean[gram]), float(rate[gram]), int(grams.size[gram])))
    return told


def in_words(told: UnitTold, name: str, vocabulary: list[bytes]) -> str:
    """Text of the corpus is data: nothing in it reaches a terminal unescaped."""

    def written(tokens: tuple[int, ...]) -> str:
        return "'" + printable(b"".join(vocabulary[i] for i in tokens)) + "'" if tokens else "(any token)"

    one = ", all top examples of one token" if told.single_token else ""
    lines = [f"{name}: fires on {told.n_fitting:,} tokens to fit, {told.n_scoring:,} of other documents to score{one}"]
    for rule, found in told.rules.items():
        lines.append(
            f"rule by {'one token' if rule == 'token' else 'n-grams'}: predicted activation (fires on so many of n tokens)"
        )
        for line in found.lines:
            lines.append(f"  {line.mean:8.3g}  {written(line.tokens):<28} {line.rate:.0%} of {line.n:,}")
        lines.append("  more likely next, by what follows: " + ", ".join(written((int(i),)) for i in found.after))
        for score, each in found.scores.items():
            lines.append(f"  {score:<16} {each.value:.3f}  [{each.low:.3f}, {each.high:.3f}]  by chance {each.chance:g}")
    return "\n".join(lines)
