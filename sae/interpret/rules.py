"""A rule: a unit's mean activation after each gram, fitted on some documents; how well it tells what the unit does on others."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from numpy import ndarray

from sae.interpret.grams import ANYTHING, Grams, sums
from sae.interpret.ranks import auc_of_ranks, balanced_accuracy, midranks, spearman
from sae.interpret.truth import Truth, Windows, digits


class Rule(NamedTuple):
    """What the fitting documents say of one unit. A token's prediction is that of the longest gram that it ends in."""

    mean: Float64[ndarray, " gram"]
    """Over the fitting tokens that end in the gram: the predicted activation."""
    rate: Float64[ndarray, " gram"]
    """Fraction of them on which the unit fires."""
    maximum: float
    """Its largest activation on the fitting tokens."""
    threshold: float
    """A window is said to hold a firing where its largest prediction is at least this; best for the fitting windows."""


class Scores(NamedTuple):
    """Of a rule on the scoring documents. NaN where the unit fires everywhere or nowhere."""

    spearman: float
    """Of predicted and true activation over all tokens."""
    spearman_sampled: float
    """The same of whole numbers from 0 to 9 on a stratified sample, weighted such that it estimates that of all tokens."""
    token_auc: float
    """Of a token on which the unit fires and one on which it does not."""
    token_accuracy: float
    """Balanced. A token is said to fire where the unit fires more often after the gram than in general: of all choices by gram
    the best for the fitting tokens."""
    window_auc: float
    window_accuracy: float
    """Balanced."""


CHANCE = Scores(0.0, 0.0, 0.5, 0.5, 0.5, 0.5)
"""Of the prediction that the unit never fires, or always fires alike."""


class Side(NamedTuple):
    """The tokens and windows of one side, by the grams that they end in."""

    leaf: Int64[ndarray, " place"]
    n_leaf: Int64[ndarray, " gram"]
    """Tokens that have each gram for their longest."""
    window_leaf: Int64[ndarray, "window length"]
    """-1 for BOS."""


def side_of(grams: Grams, token: Int64[ndarray, " place"], windows: Windows) -> Side:
    leaf = grams.leaf[token]
    return Side(leaf, np.bincount(leaf, minlength=len(grams.size)), grams.leaf[windows.token])


def fit(
    grams: Grams, token: Int64[ndarray, " active"], value: Float[ndarray, " active"], side: Side, fires: Bool[ndarray, " window"]
) -> Rule:
    """`token` and `value` are the unit's firings on the fitting tokens, `fires` are the fitting windows that hold one."""
    mean, rate = sums(grams, token, value) / grams.size, sums(grams, token) / grams.size
    return Rule(mean, rate, float(value.max(initial=0)), _threshold(_largest(mean, side), fires))


def _largest(mean: Float64[ndarray, " gram"], side: Side) -> Float64[ndarray, " window"]:
    """Largest prediction in each window."""
    return np.append(mean, -np.inf)[side.window_leaf].max(1)


def _threshold(score: Float64[ndarray, " window"], label: Bool[ndarray, " window"]) -> float:
    """The score from which on a window is predicted, for the largest balanced accuracy; infinite where none can be told apart."""
    n, n_positive = len(label), int(label.sum())
    if n_positive == 0 or n_positive == n:
        return np.inf
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(label[order])
    others = np.arange(1, n + 1) - hits
    gain = hits / n_positive - others / (n - n_positive)
    last = np.append(score[order][1:] != score[order][:-1], True)  # equal scores fall on the same side
    best = int(np.argmax(np.where(last, gain, -np.inf)))
    return float(score[order][best]) if gain[best] > 0 else np.inf


class Predicted(NamedTuple):
    """What a rule says of the scoring side, ready to be compared with any unit's truth."""

    side: Side
    rule: Rule
    rank: Float64[ndarray, " gram"]
    """Of its prediction among those of all tokens, less the mean rank."""
    spread: float
    """Sum over all tokens of the squares of such ranks."""
    fires: Bool[ndarray, " gram"]
    window: Float64[ndarray, " window"]
    window_rank: Float64[ndarray, " window"]


def predict(rule: Rule, side: Side) -> Predicted:
    used = np.flatnonzero(side.n_leaf)
    rank = np.zeros(len(rule.mean))
    rank[used] = midranks(rule.mean[used], side.n_leaf[used]) - len(side.leaf) / 2
    window = _largest(rule.mean, side)
    spread = float((side.n_leaf * rank**2).sum())
    return Predicted(side, rule, rank, spread, rule.rate > rule.rate[ANYTHING], window, midranks(window))


def score(predicted: Predicted, truth: Truth) -> Scores:
    """Everything exact but `spearman_sampled`. A token on which the unit is silent needs no look: all of them tie."""
    side, leaf = predicted.side, predicted.side.leaf[truth.place]
    spread = predicted.spread * truth.spread
    joint = float((predicted.rank[leaf] * truth.rank).sum())
    n_silent_rank = (truth.n - len(truth.place)) / 2 - truth.n / 2
    joint -= n_silent_rank * float(predicted.rank[leaf].sum())  # ranks add up to 0, so those of silent tokens to minus this
    n_positive, n_windows = int(truth.fires.sum()), len(truth.fires)
    said = predicted.window >= predicted.rule.threshold
    sampled = digits(predicted.rule.mean[side.leaf[truth.sample.place]], predicted.rule.maximum)
    return Scores(
        joint / np.sqrt(spread) if spread > 0 else 0.0,
        spearman(sampled, truth.sample.digit, truth.sample.weight),
        auc_of_ranks(float((predicted.rank[leaf] + truth.n / 2).sum()), len(leaf), truth.n),
        balanced_accuracy(int(predicted.fires[leaf].sum()), int(side.n_leaf[predicted.fires].sum()), len(leaf), truth.n),
        auc_of_ranks(float(predicted.window_rank[truth.fires].sum()), n_positive, n_windows),
        balanced_accuracy(int(said[truth.fires].sum()), int(said.sum()), n_positive, n_windows),
    )
