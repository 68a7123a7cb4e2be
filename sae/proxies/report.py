"""What `reports/proxies/proxies.json` says: the best units of each hypothesis, how specific and sensitive they are."""

from typing import Any, NamedTuple, SupportsFloat

import numpy as np
from numpy import ndarray

from sae.dictionary.base import Dictionary
from sae.proxies.agreement import Tally, levels
from sae.proxies.hypotheses import Hypothesis, ProxiesConfig
from sae.proxies.survey import MEASURES, POPULATIONS, Candidate, Population, Survey, Text, best_unit, examine, survey
from sae.source.site import ActivationSource
from sae.storage.tokens import TokenStore

N_LEVELS = 11
"""Equal-width intervals of activation in the report (TM, footnote 22)."""


class Findings(NamedTuple):
    """All that the two passes find; `report` and plots.py put it into words and pictures."""

    hypotheses: list[Hypothesis]
    kinds: tuple[str, ...]
    found: Survey
    tallies: dict[Candidate, Tally]
    transformer_id: str
    dictionary_id: str

    def best(self, population: str, hypothesis: int, measure: str) -> Candidate | None:
        """The unit that correlates best with the hypothesis by one of `MEASURES`."""
        pearson = self.found.populations[population].pearson[MEASURES.index(measure), hypothesis]
        unit = best_unit(pearson)
        return None if unit is None else Candidate(population, unit, hypothesis)

    def id(self, population: str, unit: int) -> str:
        """As the paper writes it: feature `A/1/3450`, neuron `A/neurons/489`."""
        return f"{self.dictionary_id}/{unit}" if population == "features" else f"{self.transformer_id}/neurons/{unit}"


def find(
    store: TokenStore,
    source: ActivationSource,
    dictionary: Dictionary,
    config: ProxiesConfig,
    *,
    transformer_id: str = "A",
    dictionary_id: str = "A/1",
) -> Findings:
    """Both passes over the held-out text."""
    text = Text(store, config)
    found = survey(source, dictionary, text, config.n_strongest)
    findings = Findings(text.hypotheses, text.kinds, found, {}, transformer_id, dictionary_id)
    chosen = (
        findings.best(population, h, measure)
        for h in range(len(text.hypotheses))
        for population in POPULATIONS
        for measure in ("proxy", "kind")
    )
    candidates = [candidate for candidate in chosen if candidate is not None]
    findings.tallies.update(examine(source, dictionary, text, found, candidates))
    return findings


def report(findings: Findings, config: ProxiesConfig) -> dict[str, Any]:
    """The content of proxies.json. Fractions of tokens unless named otherwise; null where a figure is undefined."""
    found = findings.found
    kinds = {
        kind: {"n_tokens": int(found.n_by_kind[i]), **_pure(found, np.arange(len(findings.kinds)) == i, config.purity)}
        for i, kind in enumerate(findings.kinds)
    }
    return {
        "n_tokens": found.n_tokens,
        "n_tokens_wanted": config.n_tokens,
        "n_strongest": config.n_strongest,
        "purity": config.purity,
        "n_counted": {name: int(_counted(found.populations[name]).sum()) for name in POPULATIONS},
        "hypotheses": {h.name: _hypothesis(findings, i, config) for i, h in enumerate(findings.hypotheses)},
        "kinds": kinds,
    }


def _hypothesis(findings: Findings, h: int, config: ProxiesConfig) -> dict[str, Any]:
    hypothesis, found = findings.hypotheses[h], findings.found
    n_positive, n_of_kind, n_both = (int(counts[h]) for counts in (found.n_positive, found.n_of_kind, found.n_both))
    pure = _pure(found, np.isin(findings.kinds, hypothesis.kinds), config.purity)
    details = {
        name + suffix: _unit(findings, findings.best(population, h, measure))
        for name, population in (("best_feature", "features"), ("best_neuron", "neurons"))
        for suffix, measure in (("", "proxy"), ("_by_kind", "kind"))
    }
    return {
        "kinds": list(hypothesis.kinds),
        "reading": hypothesis.reading,
        "paper_pearson_proxy": hypothesis.paper,
        "n_tokens": n_of_kind,
        "share": _ratio(n_of_kind, found.n_tokens, 6),
        "n_pure_features": pure["n_pure_features"],
        "n_pure_neurons": pure["n_pure_neurons"],
        "proxy": {
            "n_positive": n_positive,
            "share": _ratio(n_positive, found.n_tokens, 6),
            "specificity": _ratio(n_both, n_positive),
            "sensitivity": _ratio(n_both, n_of_kind),
            **{f"pearson_{m}": _rounded(found.proxy_kind[i, h]) for i, m in enumerate(MEASURES) if m != "kind"},
        },
        "best_by": {measure: _best_by(findings, h, measure) for measure in MEASURES},
        **details,
    }


def _best_by(findings: Findings, h: int, measure: str) -> dict[str, Any]:
    """Best feature and best neuron by one measure, and which of the two wins."""
    words: dict[str, Any] = {}
    for name, population in (("feature", "features"), ("neuron", "neurons")):
        best = findings.best(population, h, measure)
        values = findings.found.populations[population].pearson[MEASURES.index(measure), h]
        words[name] = None if best is None else findings.id(population, best.unit)
        words[f"{name}_pearson"] = None if best is None else _rounded(values[best.unit])
    if words["feature"] and words["neuron"]:
        words["winner"] = "feature" if words["feature_pearson"] > words["neuron_pearson"] else "neuron"
    return words


def _unit(findings: Findings, candidate: Candidate | None) -> dict[str, Any] | None:
    """One unit against one hypothesis."""
    if candidate is None:
        return None
    h, found, tally = candidate.hypothesis, findings.found, findings.tallies[candidate]
    population = found.populations[candidate.population]
    tokens, activation = levels(tally.counts), levels(tally.sums)
    counted = bool(_counted(population)[candidate.unit])
    true = np.isin(findings.kinds, findings.hypotheses[h].kinds)
    words: dict[str, Any] = {
        "id": findings.id(candidate.population, candidate.unit),
        "unit": candidate.unit,
        "maximum": _rounded(tally.maximum),
        "n_active": int(tokens.total[0]),
        "density": _ratio(tokens.total[0], found.n_tokens, 6),
        "strongest_of_kind": _rounded(_of_kind(population, true)[candidate.unit]) if counted else None,
        **{f"pearson_{m}": _rounded(population.pearson[i, h, candidate.unit]) for i, m in enumerate(MEASURES)},
    }
    for name, n in (("proxy", found.n_positive[h]), ("kind", found.n_of_kind[h])):
        active, summed = getattr(tokens, name)[0], getattr(activation, name)[0]
        words[f"specificity_{name}"] = _ratio(active, tokens.total[0])
        words[f"specificity_weighted_{name}"] = _ratio(summed, activation.total[0])
        words[f"sensitivity_{name}"] = _ratio(active, n)
        words[f"sensitivity_weighted_{name}"] = _ratio(summed, n * tally.maximum)
    words["levels"] = _levels(tally)
    return words


def _levels(tally: Tally) -> list[dict[str, Any]]:
    """The unit's activations in equal intervals of (0, maximum]: the data of the paper's two plots."""
    tokens, activation = levels(tally.counts, N_LEVELS), levels(tally.sums, N_LEVELS)
    return [
        {
            "above": _rounded(tally.maximum * i / N_LEVELS),
            "to": _rounded(tally.maximum * (i + 1) / N_LEVELS),
            "n_active": int(tokens.total[i]),
            "share_of_activation": _ratio(activation.total[i], activation.total.sum()),
            "specificity_proxy": _ratio(tokens.proxy[i], tokens.total[i]),
            "specificity_kind": _ratio(tokens.kind[i], tokens.total[i]),
        }
        for i in range(N_LEVELS)
    ]


def _counted(population: Population) -> ndarray:
    """Which units are active on as many tokens as are to be looked at."""
    return population.strongest[:, -1] > 0


def _of_kind(population: Population, true: ndarray) -> ndarray:
    """Of each unit's strongest tokens, the fraction in documents of the kinds that the mask `true` names."""
    of_kind = np.append(true, False)[population.strongest_kind]  # -1, no token, is the appended last
    return of_kind.mean(axis=1)


def _pure(found: Survey, true: ndarray, purity: float) -> dict[str, int]:
    """How many units have strongest tokens of one kind; those active on fewer tokens than are looked at don't count."""
    counts = {}
    for name in POPULATIONS:
        population = found.populations[name]
        counts[f"n_pure_{name}"] = int((_counted(population) & (_of_kind(population, true) >= purity)).sum())
    return counts


def _ratio(part: SupportsFloat, whole: SupportsFloat, digits: int = 4) -> float | None:
    return None if float(whole) == 0 else round(float(part) / float(whole), digits)


def _rounded(value: SupportsFloat) -> float | None:
    return None if np.isnan(float(value)) else round(float(value), 4)
