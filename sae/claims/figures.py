"""What a study of a feature says: figures, each beside its control, and what follows for each of the five claims."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

CLAIMS = ("specific", "sensitive", "causal", "not a neuron", "universal")
"""Towards Monosemanticity, "Detailed Investigations of Individual Features"."""
Verdict = Literal["holds", "does not hold", "not tested"]


class Interval(NamedTuple):
    """A value with the ends of its 95 % interval; None where it is not sampled, or undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "undefined"
        return (
            f"{self.value:.3g}"
            if self.low is None or self.high is None
            else f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"
        )


class Figure(NamedTuple):
    """One number of a claim and its control."""

    name: str
    value: Interval
    control_name: str
    """What the control is; empty where there is none."""
    control: Interval
    holds: bool | None
    """Whether the value is beyond the control as the claim wants it; None where it decides nothing, or is undefined."""


class Claim(NamedTuple):
    """One of `CLAIMS`."""

    name: str
    figures: tuple[Figure, ...]
    missing: str = ""
    """Why it was not tested; empty where it was."""

    @property
    def verdict(self) -> Verdict:
        """It holds where each figure that decides does."""
        decided = [figure.holds for figure in self.figures if figure.holds is not None]
        if not decided:
            return "not tested"
        return "holds" if all(decided) else "does not hold"


@dataclass(frozen=True, kw_only=True)
class Study:
    """One hypothesis, and the feature that is best for it."""

    hypothesis: str
    title: str
    feature: str
    """Its id, A/1/3450."""
    neuron: str
    """The best neuron's, A/neurons/17: the control of the first two claims."""
    n_tokens: int
    """Tokens that the figures are over."""
    n_chosen_on: int
    """Other tokens, on which the two were chosen."""
    n_true: int
    """Of the first, those of the hypothesis by its proxy."""
    n_active: int
    """Those on which the feature fires."""
    claims: tuple[Claim, ...]

    def claim(self, name: str) -> Claim:
        """One of `CLAIMS`."""
        return next(claim for claim in self.claims if claim.name == name)

    @property
    def caveat(self) -> str:
        """What the verdicts are not: without `sensitive` this is the best feature, but not one for the hypothesis."""
        if self.claim("sensitive").verdict != "does not hold":
            return ""
        return (
            f"No feature agrees with the hypothesis clearly better than a neuron does: {self.feature} is the best there is, and "
            "what follows is true of it, not of a feature for the hypothesis."
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        given = {key: value for key, value in vars(self).items() if key != "claims"}
        return {
            **given,
            "caveat": self.caveat,
            "claims": {
                claim.name: {
                    "verdict": claim.verdict,
                    "missing": claim.missing,
                    "figures": [
                        {**one._asdict(), "value": one.value._asdict(), "control": one.control._asdict()} for one in claim.figures
                    ],
                }
                for claim in self.claims
            },
        }

    def __str__(self) -> str:
        lines = [
            f"{self.title}: {self.feature} fires on {self.n_active:,} of {self.n_tokens:,} held-out tokens, "
            f"{self.n_true:,} of them of the hypothesis; best neuron {self.neuron} (chosen on {self.n_chosen_on:,} other tokens)"
        ]
        if self.caveat:
            lines.append(self.caveat)
        for claim in self.claims:
            lines.append(f"{claim.name}: {claim.verdict}{f' ({claim.missing})' if claim.missing else ''}")
            for figure in claim.figures:
                mark = {True: "yes", False: "no", None: ""}[figure.holds]
                beside = f"{figure.control_name}: {figure.control}" if figure.control_name else ""
                lines.append(f"  {figure.name:<58} {figure.value!s:<26} {beside:<70} {mark}".rstrip())
        return "\n".join(lines)
