"""A judge's scores over units: medians with intervals, each beside chance, shuffled answers and another unit's explanation."""

from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from sae.chance import generator
from sae.interpret.config import InterpretConfig
from sae.interpret.endpoint import JudgeConfig
from sae.interpret.evidence import Evidence
from sae.interpret.judged import SILENCE, Judged, JudgeScores, Session
from sae.interpret.report import groups
from sae.interpret.survey import Surveyed
from sae.metrics.intervals import median_interval


def units_to_judge(
    evidence: Evidence, population: str, surveyed: Surveyed, config: InterpretConfig, judge: JudgeConfig
) -> list[int]:
    """`judge.n_units` of those that fire on `min_active` tokens of either side, drawn by chance, in order."""
    counted = surveyed.unit[surveyed.n_active >= config.min_active]
    fired = np.array([evidence.fitting[evidence.firings[population].of(unit)[0]].sum() for unit in counted])
    usable = counted[fired >= config.min_active] if len(counted) else counted
    chosen = generator(judge.seed, f"{population} to judge").permutation(usable)[: judge.n_units]
    return sorted(chosen.tolist())


def judged_report(sessions: dict[str, Session], found: dict[str, Surveyed], config: InterpretConfig) -> dict[str, Any]:
    """Of each population medians over all units judged, those of one token and the others; and what was asked and spent.

    The counts and tokens are those of the judge when the last population was done: of all of them together."""
    last = list(sessions.values())[-1]
    return {
        "model": last.model,
        "prompts": last.prompts,
        "counts": last.counts,
        "tokens_spent": last.tokens_spent,
        "stopped": next((session.stopped for session in sessions.values() if session.stopped), None),
        "populations": {name: _population(session.judged, found[name], config) for name, session in sessions.items()},
    }


def _population(judged: list[Judged], surveyed: Surveyed, config: InterpretConfig) -> dict[str, Any]:
    units = np.array([row.unit for row in judged], np.int64)
    masks = {name: np.isin(units, surveyed.unit[mask]) for name, mask in groups(surveyed, config.min_active).items()}
    return {
        "n_judged": len(judged),
        "n_without_explanation": sum(row.explanation is None for row in judged),
        "n_passages": sum(row.n_passages for row in judged),
        "unread_simulations": sum(row.unread_simulations for row in judged),
        "unread_detections": sum(row.unread_detections for row in judged),
        **{f"n_{name}": int(mask.sum()) for name, mask in masks.items()},
        **{name: _scores(judged, np.flatnonzero(mask), config) for name, mask in masks.items()},
    }


def _scores(judged: list[Judged], which: Int64[ndarray, " judged"], config: InterpretConfig) -> dict[str, Any]:
    words: dict[str, Any] = {}
    for score in JudgeScores._fields:
        row: dict[str, Any] = {"chance": getattr(SILENCE, score)}
        for against in ("own", "shuffled", "other"):
            scores = [getattr(judged[i], against) for i in which]
            values = np.array([np.nan if each is None else getattr(each, score) for each in scores], np.float64)
            row[against] = median_interval(values, config.n_bootstrap, config.seed)._asdict()
        words[score] = row
    return words


def judge_told(words: dict[str, Any]) -> str:
    """A line a population: the medians, each beside that of another unit's explanation; then what was asked, and what failed."""
    lines = [f"{'judge ' + words['model'] + ' (by another’s explanation)':40}" + "".join(f"{s:>22}" for s in JudgeScores._fields)]
    for name, row in words["populations"].items():
        cells = [_cell(row["all"][score]) for score in JudgeScores._fields]
        label = f"{name}, {row['n_judged']} judged"
        lines.append(f"{label:40}" + "".join(f"{cell:>22}" for cell in cells))
        lines.append(
            f"  of {row['n_passages']:,} passages {row['unread_simulations']:,} simulations and {row['unread_detections']:,} "
            f"detections could not be read; {row['n_without_explanation']:,} units without an explanation"
        )
    counts = ", ".join(f"{name} {n:,}" for name, n in sorted(words["counts"].items())) or "none"
    lines.append(f"requests: {counts}; {words['tokens_spent']:,} tokens")
    return "\n".join(lines + ([f"stopped: {words['stopped']}"] if words["stopped"] else []))


def _cell(row: dict[str, Any]) -> str:
    own, other = (row[against]["median"] for against in ("own", "other"))
    return "-" if own is None else f"{own:.3f} ({'-' if other is None else f'{other:.3f}'})"
