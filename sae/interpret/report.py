"""Judge-free interpretability of features and neurons, side by side: medians over units with bootstrap intervals."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, Shaped
from numpy import ndarray
from torch import Tensor

from sae.chance import generator
from sae.dictionary.base import Dictionary
from sae.features.logits import allowed_tokens, mean_inverse_scale
from sae.interpret.config import InterpretConfig
from sae.interpret.evidence import read
from sae.interpret.promoted import LogitScores, choose_candidates
from sae.interpret.rules import CHANCE, Scores
from sae.interpret.survey import AGAINST, RULES, Surveyed, Text, choose_units, prepare, survey
from sae.metrics.intervals import median_interval
from sae.source.site import ActivationSource
from sae.storage.tokens import TokenStore

POPULATIONS = ("features", "neurons")


class Findings(NamedTuple):
    """What `find` finds, unit by unit."""

    text: Text
    """What was read, and its two sides."""
    populations: dict[str, Surveyed]

    def facts(self) -> dict[str, Any]:
        """Tokens of either side, documents of both, and grams by rule."""
        evidence = self.text.evidence
        document = evidence.contexts.document
        return {
            "n_fitting": int(evidence.fitting.sum()),
            "n_scoring": int(evidence.scoring.sum()),
            "n_documents": len(np.unique(document[document >= 0])),
            "n_grams": {rule: len(grams.size) for rule, grams in self.text.grams.items()},
        }


def find(
    source: ActivationSource,
    dictionary: Dictionary,
    tokens: TokenStore,
    config: InterpretConfig,
    populations: Sequence[str] = POPULATIONS,
) -> Findings:
    """Fit and score the rules of features of `dictionary`, and of neurons: of all, or of `config.n_units` drawn by chance.

    Raises `ConfigError`, `CorpusError` and `NumericsError` as `evidence.read` does.
    """
    evidence = read(source, dictionary, tokens, config.n_tokens, memory_mb=config.memory_mb, seed=config.seed)
    text = prepare(evidence, config, source.n_vocab)
    scale = mean_inverse_scale(source, tokens)
    allowed = allowed_tokens(tokens, config.logit_min_count, source.n_vocab)
    found = {}
    for population in populations:
        units = choose_units(text, population)
        rng = generator(config.seed, f"candidates of {population}")
        candidates = choose_candidates(source, directions(dictionary, population, units), scale, allowed, rng)
        found[population] = survey(text, population, units, candidates)
    return Findings(text, found)


def directions(dictionary: Dictionary, population: str, units: Int64[ndarray, " unit"]) -> Float32[Tensor, "unit d_mlp"]:
    """In the space of neurons: rows of W_dec, or single neurons."""
    every = dictionary.W_dec.detach() if population == "features" else torch.eye(dictionary.d_mlp, device=dictionary.W_dec.device)
    return every[torch.from_numpy(units).to(every.device)]


def report(populations: dict[str, Surveyed], config: InterpretConfig) -> dict[str, Any]:
    """Of each population medians over the counted units, with their 95 % intervals, and every baseline beside each. See
    method.md."""
    words = {}
    for name, surveyed in populations.items():
        masks = groups(surveyed, config.min_active)
        words[name] = {
            "n_units": surveyed.n_units,
            "n_scored": len(surveyed.unit),
            "sampled": len(surveyed.unit) < surveyed.n_units,
            "n_never_fired": int((surveyed.n_active == 0).sum()),
            **{f"n_{group}": int(mask.sum()) for group, mask in masks.items()},
            **{group: _scores(surveyed, mask, config) for group, mask in masks.items()},
        }
    return words


def groups(surveyed: Surveyed, min_active: int) -> dict[str, Bool[ndarray, " unit"]]:
    """The counted units, and which of them are of one token."""
    counted, single = surveyed.n_active >= min_active, surveyed.single_token
    return {"all": counted, "single_token": counted & single, "others": counted & ~single}


def columns(surveyed: Surveyed) -> dict[str, Shaped[ndarray, " unit"]]:
    """Every score of every unit by name, such as `ngram_token_auc_other`; that of its own rule has no suffix."""
    found: dict[str, ndarray] = {}
    for rule in RULES:
        for i, score in enumerate(Scores._fields):
            for j, against in enumerate(AGAINST):
                found[_column(rule, score, against)] = surveyed.scores[rule][:, j, i]
        for score in LogitScores._fields if rule in surveyed.logits else ():
            for against, values in surveyed.logits[rule].items():
                found[_column(rule, f"logit_{score}", against)] = getattr(values, score)
    return found


def _column(rule: str, score: str, against: str) -> str:
    return f"{rule}_{score}" if against == "own" else f"{rule}_{score}_{against}"


def _scores(surveyed: Surveyed, mask: Bool[ndarray, " unit"], config: InterpretConfig) -> dict[str, Any]:
    words: dict[str, Any] = {}
    for rule in RULES:
        words[rule] = {}
        for i, score in enumerate(Scores._fields):
            each = {against: surveyed.scores[rule][mask, j, i] for j, against in enumerate(AGAINST)}
            words[rule][score] = _row(each, CHANCE[i], config)
        for score in ("accuracy", "auc") if rule in surveyed.logits else ():
            each = {against: getattr(values, score)[mask] for against, values in surveyed.logits[rule].items()}
            words[rule][f"logit_{score}"] = _row(each, 0.5, config)
    return words


def _row(each: dict[str, Float64[ndarray, " unit"]], chance: float, config: InterpretConfig) -> dict[str, Any]:
    row: dict[str, Any] = {
        against: median_interval(values, config.n_bootstrap, config.seed)._asdict() for against, values in each.items()
    }
    return {**row, "chance": chance}


def told(words: dict[str, Any]) -> str:
    """Lines a population from `report` and `Findings.facts`: medians by the rule of n-grams, each beside that of another unit's
    rule."""
    scores = ("token_auc", "window_auc", "spearman", "spearman_sampled", "logit_auc")
    lines = [
        f"interpret: rules fitted on {words['n_fitting']:,} held-out tokens, scored on {words['n_scoring']:,} of other documents",
        f"{'median (by another unit’s rule)':32}{'units':>14}" + "".join(f"{score:>19}" for score in scores),
    ]
    for name, row in words["populations"].items():
        sampled = f" of {row['n_units']:,}" if row["sampled"] else ""
        for group, label in (("all", name), ("single_token", "  of one token"), ("others", "  others")):
            cells = [_cell(row[group]["ngram"].get(score)) for score in scores]
            counted = f"{row[f'n_{group}']:,}{sampled if group == 'all' else ''}"
            lines.append(f"{label:32}{counted:>14}" + "".join(f"{cell:>19}" for cell in cells))
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["own"]["median"] is None:
        return "-"
    return f"{row['own']['median']:.3f} ({row['other']['median']:.3f})"
