"""Judge-free interpretability of features and neurons, side by side: medians over units with bootstrap intervals."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64
from numpy import ndarray

from sae.chance import generator
from sae.dictionary.base import Dictionary
from sae.features.logits import allowed_tokens, mean_inverse_scale
from sae.interpret.config import InterpretConfig
from sae.interpret.evidence import read
from sae.interpret.promoted import choose_candidates
from sae.interpret.rules import CHANCE, Scores
from sae.interpret.survey import AGAINST, RULES, Surveyed, prepare, survey
from sae.metrics.intervals import median_interval
from sae.source.site import ActivationSource
from sae.storage.tokens import TokenStore

POPULATIONS = ("features", "neurons")


class Findings(NamedTuple):
    """What `find` finds, unit by unit."""

    populations: dict[str, Surveyed]
    n_fitting: int
    """Tokens that rules were fitted on."""
    n_scoring: int
    n_documents: int
    """Of both sides."""
    n_grams: dict[str, int]
    """By rule."""


def find(source: ActivationSource, dictionary: Dictionary, tokens: TokenStore, config: InterpretConfig) -> Findings:
    """Fit and score the rules of all features of `dictionary`, and of the neurons.

    Raises `ConfigError`, `CorpusError` and `NumericsError` as `evidence.read` does.
    """
    evidence = read(source, dictionary, tokens, config.n_tokens, memory_mb=config.memory_mb, seed=config.seed)
    text = prepare(evidence, config, source.n_vocab)
    scale = mean_inverse_scale(source, tokens)
    allowed = allowed_tokens(tokens, config.logit_min_count, source.n_vocab)
    identity = torch.eye(dictionary.d_mlp, device=dictionary.W_dec.device)
    found = {}
    for population, directions in zip(POPULATIONS, (dictionary.W_dec.detach(), identity), strict=True):
        rng = generator(config.seed, f"candidates of {population}")
        candidates = choose_candidates(source, directions, scale, allowed, rng)
        found[population] = survey(text, population, candidates)
    document = evidence.contexts.document
    n_documents = len(np.unique(document[document >= 0]))
    n_grams = {rule: len(grams.size) for rule, grams in text.grams.items()}
    return Findings(found, int(evidence.fitting.sum()), int(evidence.scoring.sum()), n_documents, n_grams)


def report(findings: Findings, config: InterpretConfig) -> dict[str, Any]:
    """Medians over the counted units, with their 95 % intervals, and every baseline beside each. See method.md."""
    populations = {}
    for name, surveyed in findings.populations.items():
        counted = surveyed.n_active >= config.min_active
        single = surveyed.single_token
        groups = {"all": counted, "single_token": counted & single, "others": counted & ~single}
        populations[name] = {
            "n_units": len(counted),
            "n_never_fired": int((surveyed.n_active == 0).sum()),
            **{f"n_{group}": int(mask.sum()) for group, mask in groups.items()},
            **{group: _scores(surveyed, mask, config) for group, mask in groups.items()},
        }
    facts = {"n_fitting": findings.n_fitting, "n_scoring": findings.n_scoring, "n_documents": findings.n_documents}
    return {**facts, "n_grams": findings.n_grams, "populations": populations}


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
