"""Explain a unit, then predict it from the explanation: scores of a language model's explanations, beside those of chance."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from sae.chance import generator
from sae.errors import BudgetError
from sae.interpret import prompts
from sae.interpret.endpoint import UNREADABLE
from sae.interpret.evidence import Evidence
from sae.interpret.judge import Judge, Messages
from sae.interpret.passages import Passage, to_explain, to_score
from sae.interpret.ranks import auc, balanced_accuracy, spearman

PER_PROMPT = 10
"""Passages asked about at once."""


class Guess(NamedTuple):
    """What a judge says of some passages from one explanation. A passage of which it says nothing that can be read counts as
    silent, and is counted."""

    digits: list[list[int]]
    fires: list[bool]
    unread_simulations: int
    unread_detections: int


class JudgeScores(NamedTuple):
    """Of one prediction of a unit's passages; 0 where it is constant, NaN where the unit is active in all passages or in none."""

    spearman: float
    """Of predicted and true digits over all tokens of the passages."""
    spearman_weighted: float
    """The same, each passage weighted by the tokens that it stands for."""
    detection: float
    """Balanced accuracy of "the unit is active in this passage"."""
    detection_auc: float
    """By the largest digit that was simulated in a passage."""


SILENCE = JudgeScores(0.0, 0.0, 0.5, 0.5)
"""What the prediction that the unit is never active scores."""


class Judged(NamedTuple):
    """One unit."""

    unit: int
    explanation: str | None
    """None where the judge gave none; the scores are then those of silence."""
    n_passages: int
    own: JudgeScores
    shuffled: JudgeScores
    """The predictions given to other passages by chance, cut or filled with zeros to their lengths."""
    other: JudgeScores | None
    """Of the explanation of the next unit in the list; None where there is no other."""
    unread_simulations: int
    """Passages of which the simulation could not be read, of `n_passages`."""
    unread_detections: int


class Session(NamedTuple):
    """Units that were judged, in order; `stopped` says why not all of them were."""

    judged: list[Judged]
    stopped: str | None
    prompts: str
    """Version of the prompts."""
    model: str
    counts: dict[str, int]
    """As `Judge.counts`."""
    tokens_spent: int


def judge_units(judge: Judge, evidence: Evidence, vocabulary: Sequence[bytes], population: str, units: Sequence[int]) -> Session:
    """Explain and score each of `units` of `population`.

    A spent budget stops all that is not begun; what is complete is returned. Raises `UnavailableError` where the server refuses.
    """
    work = _Work(judge, evidence, [token.decode("utf-8", errors="replace") for token in vocabulary], population)
    judged: list[Judged] = []
    stopped = None
    with ThreadPoolExecutor(judge.config.concurrency) as pool:
        try:
            explanations = list(pool.map(work.explain, units))
            others = [explanations[(i + 1) % len(units)] if len(units) > 1 else None for i in range(len(units))]
            for row in pool.map(work.score, units, explanations, others):
                judged.append(row)
        except BudgetError as error:
            stopped = str(error)
            pool.shutdown(cancel_futures=True)
    return Session(judged, stopped, prompts.VERSION, judge.config.model, dict(judge.counts), judge.spent)


class _Work(NamedTuple):
    judge: Judge
    evidence: Evidence
    vocabulary: list[str]
    population: str

    def explain(self, unit: int) -> str | None:
        shown = to_explain(self.evidence, self.population, unit, self.judge.config.seed)
        messages = prompts.explain(self._texts(shown), [passage.digit.tolist() for passage in shown])
        config = self.judge.config
        answer = self._ask(messages, config.explain_max_tokens, config.explain_temperature)
        return prompts.read_explanation(answer)

    def score(self, unit: int, explanation: str | None, other: str | None) -> Judged:
        config = self.judge.config
        shown = to_explain(self.evidence, self.population, unit, config.seed)
        passages = to_score(self.evidence, self.population, unit, config.seed, shown)
        own = self.guess(explanation, passages)
        order = generator(config.seed, f"shuffled guesses of {self.population}", unit).permutation(len(passages))
        lengths = [len(passage.token) for passage in passages]
        filled = [(own.digits[j] + [0] * n)[:n] for j, n in zip(order, lengths, strict=True)]
        shuffled = Guess(filled, [own.fires[j] for j in order], 0, 0)
        return Judged(
            unit=unit,
            explanation=explanation,
            n_passages=len(passages),
            own=_scores(own, passages),
            shuffled=_scores(shuffled, passages),
            other=None if other is None else _scores(self.guess(other, passages), passages),
            unread_simulations=own.unread_simulations,
            unread_detections=own.unread_detections,
        )

    def guess(self, explanation: str | None, passages: list[Passage]) -> Guess:
        """Both predictions of every passage, the last lot too."""
        simulated: list[list[int] | None] = []
        detected: list[int | None] = []
        config = self.judge.config
        for first in range(0, len(passages), PER_PROMPT):
            lot = passages[first : first + PER_PROMPT]
            texts, lengths = self._texts(lot), [len(passage.token) for passage in lot]
            answers = ["", ""]
            if explanation is not None:
                asked = (prompts.simulate(explanation, texts), prompts.detect(explanation, texts))
                answers = [self._ask(messages, config.score_max_tokens, config.score_temperature) for messages in asked]
            simulated += prompts.read_simulation(answers[0], lengths)
            detected += prompts.read_detection(answers[1], len(lot))
        digits = [row or [0] * len(passage.token) for row, passage in zip(simulated, passages, strict=True)]
        return Guess(digits, [bool(value) for value in detected], simulated.count(None), detected.count(None))

    def _ask(self, messages: Messages, max_tokens: int, temperature: float) -> str:
        """The answer, "" where there is none or it was cut off."""
        reply = self.judge.complete(messages, max_tokens=max_tokens, temperature=temperature)
        return "" if reply is None or reply.finish_reason in UNREADABLE else reply.text

    def _texts(self, passages: list[Passage]) -> list[list[str]]:
        return [[self.vocabulary[i] for i in passage.token] for passage in passages]


def _scores(guess: Guess, passages: list[Passage]) -> JudgeScores:
    said = np.array([digit for row in guess.digits for digit in row], np.int64)
    true = np.concatenate([np.zeros(0, np.int64), *(passage.digit for passage in passages)])
    weight = np.array([passage.weight for passage in passages for _ in passage.token])
    fires, active = np.array(guess.fires, bool), np.array([passage.fires for passage in passages], bool)
    largest = np.array([max(row) for row in guess.digits], np.int64)
    accuracy = balanced_accuracy(int((fires & active).sum()), int(fires.sum()), int(active.sum()), len(active))
    return JudgeScores(spearman(said, true), spearman(said, true, weight), accuracy, auc(largest, active))
