"""Stage `claims`: the five claims for the best feature of each hypothesis -> reports/claims: claims.json, words, a plot."""

from pathlib import Path

import numpy as np

from pipelines.common import Stage, run_stage
from pipelines.plots import FEATURE, MARK, NEURON, new_figure, save
from sae import artefact
from sae.claims.config import ClaimsConfig
from sae.claims.figures import Study
from sae.claims.study import study
from sae.library import made_from, open_sides
from sae.reports import write_figures
from sae.storage.tokens import TokenStore

SHOWN = (
    ("specific", 0, "specific: share of activation\non tokens of the hypothesis"),
    ("sensitive", 0, "sensitive: correlation\nwith the score"),
    ("causal", 0, "causal: nats a token\nwhen ablated"),
    ("not a neuron", 0, "not a neuron: correlation with\nthe score, and the closest neuron's"),
    ("universal", 0, "universal: correlation\nwith its partner"),
)
"""Claim, which of its figures, and its title."""


def main(stage: Stage) -> None:
    config = stage.section("claims", ClaimsConfig)
    first, second = stage.dictionary_id, config.other or stage.dictionary_id
    side, other = open_sides(first, second, device=str(stage.device))
    studies = study(TokenStore.open(stage.tokens), side, config, other if config.other else None)
    run = stage.run("claims", config, id=first, parents=made_from(stage.tokens, (first, second)))
    with artefact.writing(stage.reports / "claims", run) as draft:
        write_figures(draft.path, "claims", {each.hypothesis: each.to_dict() for each in studies})
        draft.tell("\n\n".join(str(each) for each in studies))
        plot(draft.path / "claims.png", studies)


def plot(path: Path, studies: list[Study]) -> None:
    """A panel for each claim, a line for each hypothesis: the feature's figure and its control, with their intervals."""
    figure, axes = new_figure(columns=len(SHOWN), size=(14.0, 0.6 * len(studies) + 1.9))
    for axis, (name, which, title) in zip(axes[0], SHOWN, strict=True):
        for line, each in enumerate(studies):
            figures = each.claim(name).figures
            if not figures:
                axis.text(0.5, line, "not tested", ha="center", va="center", color=MARK, transform=axis.get_yaxis_transform())
                continue
            for value, color, shift in ((figures[which].control, NEURON, 0.16), (figures[which].value, FEATURE, -0.16)):
                if value.value is not None:
                    low, high = (value.value if end is None else end for end in (value.low, value.high))
                    axis.plot([low, high], [line + shift] * 2, color=color, linewidth=1.5)
                    axis.plot(value.value, line + shift, "o", color=color, markersize=5)
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_yticks(np.arange(len(studies)), [each.title for each in studies] if name == "specific" else [])
        axis.set_ylim(len(studies) - 0.5, -0.5)
        axis.axvline(0, color=MARK, linewidth=0.6)
    figure.suptitle(
        f"{studies[0].feature.rpartition('/')[0]}: feature (upper) and control (lower)", x=0.01, ha="left", fontsize=11
    )
    save(figure, path)


if __name__ == "__main__":
    run_stage("claims", main)
