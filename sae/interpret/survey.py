"""Every unit's rules, scored: its own, another unit's, and its own against shuffled text."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from sae.chance import generator
from sae.features.examples import best_of_documents
from sae.interpret.config import InterpretConfig
from sae.interpret.evidence import Evidence
from sae.interpret.grams import Grams, find_grams
from sae.interpret.promoted import Candidates, Following, LogitScores, follow, followers, score_candidates
from sae.interpret.rules import Predicted, Rule, Scores, Side, fit, predict, score, side_of
from sae.interpret.truth import Truth, Windows, draw, fired_windows, firings_of, moved, truth_of, windows
from sae.progress import ProgressBar

RULES = ("token", "ngram")
AGAINST = ("own", "other", "shuffled")
"""A unit's scores are of its own rule; of another unit's, drawn by chance; and of its own against its activations moved to
other tokens by chance."""
CHUNK_UNITS = 128


class Text(NamedTuple):
    """What all units share: the two sides by grams, and one shuffle of the scoring side."""

    evidence: Evidence
    config: InterpretConfig
    grams: dict[str, Grams]
    fitting: dict[str, Side]
    scoring: dict[str, Side]
    fitting_windows: Windows
    windows: Windows
    place: Int64[ndarray, " token"]
    """Of each scoring token among them."""
    tokens_moved: Int64[ndarray, " place"]
    windows_moved: Int64[ndarray, " window"]
    following: dict[str, Following]


class Surveyed(NamedTuple):
    """One population, or some units of it; every array has one row a unit of `unit`."""

    unit: Int64[ndarray, " unit"]
    """Their numbers, rising."""
    n_units: int
    """Of the population."""
    n_active: Int64[ndarray, " unit"]
    """Scoring tokens on which each unit fires."""
    single_token: Bool[ndarray, " unit"]
    """All top examples are of one token."""
    scores: dict[str, Float64[ndarray, "unit against score"]]
    """By rule; `AGAINST` and `Scores`."""
    logits: dict[str, dict[str, LogitScores]]
    """By rule, for `own`, `other` and `frequency` (the commoner token is said to be promoted); empty where not asked for."""


def prepare(evidence: Evidence, config: InterpretConfig, n_vocab: int) -> Text:
    """Count the grams of the fitting documents, and cut both sides into windows."""
    rng = generator(config.seed, "shuffled text")
    scored = evidence.scored
    place = np.full(evidence.fitting.size, -1, np.int64)
    place[scored] = np.arange(len(scored))
    cut = [windows(evidence.contexts, mine, config.window) for mine in (evidence.fitting, evidence.scoring)]
    lengths = dict(zip(RULES, (1, config.n_gram), strict=True))
    grams = {rule: find_grams(evidence.contexts, evidence.fitting, n, config.min_count) for rule, n in lengths.items()}
    return Text(
        evidence=evidence,
        config=config,
        grams=grams,
        fitting={rule: side_of(found, np.flatnonzero(evidence.fitting), cut[0]) for rule, found in grams.items()},
        scoring={rule: side_of(found, scored, cut[1]) for rule, found in grams.items()},
        fitting_windows=cut[0],
        windows=cut[1],
        place=place,
        tokens_moved=rng.permutation(len(scored)),
        windows_moved=rng.permutation(len(cut[1].token)),
        following={rule: followers(evidence, found, n_vocab) for rule, found in grams.items()},
    )


def choose_units(text: Text, population: str) -> Int64[ndarray, " unit"]:
    """All of them, or `config.n_units` drawn by chance."""
    n, wanted = text.evidence.firings[population].n_features, text.config.n_units
    if not 0 < wanted < n:
        return np.arange(n)
    return np.sort(generator(text.config.seed, f"units of the {population}").permutation(n)[:wanted])


def survey(text: Text, population: str, units: Int64[ndarray, " unit"], candidates: Candidates | None) -> Surveyed:
    """Fit and score both rules of each of `units` of `population` (`features` or `neurons`); row i of `candidates` is of
    `units[i]`."""
    n = len(units)
    other = _another(n, generator(text.config.seed, f"another of the {population}"))
    result = {rule: np.full((n, len(AGAINST), len(Scores._fields)), np.nan) for rule in RULES}
    n_active, single = np.zeros(n, np.int64), np.zeros(n, bool)
    logits: dict[str, list[dict[str, LogitScores]]] = {rule: [] for rule in RULES}
    with ProgressBar(f"rules of {population}", n) as bar:
        for first in range(0, n, CHUNK_UNITS):
            rows = np.arange(first, min(first + CHUNK_UNITS, n))
            fitted = [fit_unit(text, population, int(units[i])) for i in rows]
            for i, rules in zip(rows, fitted, strict=True):
                truth = _truth(text, population, int(units[i]))
                n_active[i], single[i] = len(truth.place), single_token(text, population, int(units[i]))
                _score(text, result, i, truth, rules, (0, 2))
                _score(text, result, other[i], _truth(text, population, int(units[other[i]])), rules, (1,))
            if candidates is not None:
                for rule in RULES:
                    mean = np.stack([rules[rule].rule.mean for rules in fitted])
                    logits[rule].append(_logits(text.following[rule], mean, candidates, rows, other[rows]))
            bar.advance(len(rows))
    joined = {rule: _joined(parts, other) for rule, parts in logits.items() if parts}
    return Surveyed(units, text.evidence.firings[population].n_features, n_active, single, result, joined)


def _another(n: int, rng: np.random.Generator) -> Int64[ndarray, " unit"]:
    """The unit that each one's rule is tried on: never itself, each once (a single unit has only itself)."""
    order = rng.permutation(n)
    other = np.empty(n, np.int64)
    other[order] = np.roll(order, 1)
    return other


def fit_unit(text: Text, population: str, unit: int) -> dict[str, Predicted]:
    """Both rules of one unit, and what they say of the scoring side."""
    token, value = firings_of(text.evidence, population, unit)
    mine = text.evidence.fitting[token]
    token, value = token[mine], value[mine]
    fires = fired_windows(text.fitting_windows, token)
    rules: dict[str, Rule] = {name: fit(text.grams[name], token, value, text.fitting[name], fires) for name in RULES}
    return {name: predict(rule, text.scoring[name]) for name, rule in rules.items()}


def _truth(text: Text, population: str, unit: int) -> Truth:
    token, value = firings_of(text.evidence, population, unit)
    mine = text.evidence.scoring[token]
    token, value, config = token[mine], value[mine], text.config
    place = text.place[token]
    sample = draw(
        place,
        value,
        text.tokens_moved,
        n_intervals=config.n_intervals,
        per_interval=config.per_interval,
        n_silent=config.n_silent,
        rng=generator(config.seed, f"sample of {population}", unit),
    )
    return truth_of(len(text.tokens_moved), place, value, fired_windows(text.windows, token), sample)


def _score(
    text: Text,
    result: dict[str, ndarray],
    row: int | np.integer,
    truth: Truth,
    rules: dict[str, Predicted],
    against: tuple[int, ...],
) -> None:
    """Fill a row with the scores of the `rules`, by `AGAINST`."""
    for which in against:
        compared = moved(truth, text.tokens_moved, text.windows_moved) if AGAINST[which] == "shuffled" else truth
        for name in RULES:
            result[name][row, which] = score(rules[name], compared)


def single_token(text: Text, population: str, unit: int) -> bool:
    """Whether all top examples, one a document and two at least, are of one token."""
    token, value = firings_of(text.evidence, population, unit)
    if not len(token):
        return False
    contexts = text.evidence.contexts
    best = best_of_documents(value, contexts.document.ravel()[token], text.config.n_top)
    return len(best) > 1 and len(np.unique(contexts.tokens.ravel()[token[best]])) == 1


def _logits(
    following: Following, mean: ndarray, candidates: Candidates, units: ndarray, other: ndarray
) -> dict[str, LogitScores]:
    scores = follow(following, mean.astype(np.float32))
    common = np.broadcast_to(following.share, scores.shape)
    return {
        "own": score_candidates(scores, candidates, units),
        "other": score_candidates(scores, candidates, other),
        "frequency": score_candidates(common, candidates, units),
    }


def _joined(parts: list[dict[str, LogitScores]], other: Int64[ndarray, " unit"]) -> dict[str, LogitScores]:
    """Over all units; those of `other` were made in the order of the rules and go to the units that they were tried on."""
    joined = {
        name: LogitScores(*(np.concatenate([getattr(part[name], field) for part in parts]) for field in LogitScores._fields))
        for name in parts[0]
    }
    back = np.argsort(other)
    joined["other"] = LogitScores(*(values[back] for values in joined["other"]))
    return joined
