"""Stage `interpret`: what simple rules tell of features, neurons and a control, and what a judge does if one is named ->
reports/interpret: interpret.json, tables, plots."""

from typing import Any

import numpy as np

from pipelines.common import Stage, run_stage
from pipelines.interpret_plots import write_plots
from pipelines.plots import write_csv
from sae import artefact
from sae.dictionary.disk import dictionary_path, read_dictionary
from sae.interpret.config import InterpretConfig
from sae.interpret.endpoint import JudgeConfig
from sae.interpret.judge import Judge
from sae.interpret.judged import Session, judge_units
from sae.interpret.judged_report import judge_told, judged_report, units_to_judge
from sae.interpret.report import Findings, columns, find, report, told
from sae.interpret.survey import Surveyed
from sae.library import Place
from sae.reports import write_figures
from sae.source.transformer import load_source
from sae.storage.tokens import TokenStore


def main(stage: Stage) -> None:
    config, judge_config = stage.section("interpret", InterpretConfig), stage.section("judge", JudgeConfig)
    tokens = TokenStore.open(stage.tokens)
    places = {name: Place(dictionary=dictionary_path(name)) for name in (stage.dictionary_id, *config.beside)}
    parents = (stage.tokens, *(path for place in places.values() for path in (place.dictionary, place.transformer)))
    judge = Judge(judge_config, judge_config.cache) if judge_config.base_url else None
    run = stage.run("interpret", config, id=stage.dictionary_id, parents=tuple(dict.fromkeys(parents)))
    with artefact.writing(stage.reports / "interpret", run) as draft:
        found: dict[str, Surveyed] = {}
        sessions: dict[str, Session] = {}
        facts: dict[str, Any] = {}
        for name, place in places.items():
            names = population_names(name, found)
            source, dictionary = load_source(place.transformer, stage.device), read_dictionary(place.dictionary)
            findings = find(source, dictionary.to(stage.device), tokens, config, tuple(names))
            found |= {names[population]: surveyed for population, surveyed in findings.populations.items()}
            facts = facts or findings.facts()
            if judge is not None:
                sessions |= ask(judge, findings, tokens, names, config)
        for name, surveyed in found.items():
            write_csv(draft.path / f"{name.replace('/', '-')}.csv", *table(surveyed, config))
        write_plots(found, config, stage.dictionary_id, draft.path)
        words = {**facts, "min_active": config.min_active, "populations": report(found, config)}
        if judge is not None:
            words["judge"] = judged_report(sessions, found, config)
            kept = {name: [row._asdict() for row in session.judged] for name, session in sessions.items()}
            write_figures(draft.path, "judged", kept)
        write_figures(draft.path, "interpret", words)
        draft.tell("\n\n".join([told(words), *([judge_told(words["judge"])] if judge is not None else [])]))


def population_names(dictionary_id: str, found: dict[str, Surveyed]) -> dict[str, str]:
    """What is to be scored of a dictionary: its features, and the neurons below it where they were not before."""
    neurons = f"{dictionary_id.split('/')[0]}/neurons"
    return {"features": dictionary_id} | ({} if neurons in found else {"neurons": neurons})


def ask(
    judge: Judge, findings: Findings, tokens: TokenStore, names: dict[str, str], config: InterpretConfig
) -> dict[str, Session]:
    """Judge some units of each population."""
    vocabulary, evidence = tokens.vocabulary, findings.text.evidence
    sessions = {}
    for population, name in names.items():
        units = units_to_judge(evidence, population, findings.populations[population], config, judge.config)
        sessions[name] = judge_units(judge, evidence, vocabulary, population, units)
    return sessions


def table(surveyed: Surveyed, config: InterpretConfig) -> tuple[tuple[str, ...], tuple[np.ndarray, ...]]:
    """Names and values of every unit that was scored."""
    values = {"unit": surveyed.unit, "n_active": surveyed.n_active, "single_token": surveyed.single_token.astype(int)}
    values["counted"] = (surveyed.n_active >= config.min_active).astype(int)
    values |= {name: scores.round(6) for name, scores in columns(surveyed).items()}
    return tuple(values), tuple(values.values())


if __name__ == "__main__":
    run_stage("interpret", main)
