"""The pictures of stage `interpret`: how scores are spread over features, neurons and the control, beside what chance gives."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray

from pipelines.plots import FEATURE, MARK, NEURON, new_figure, save
from sae.interpret.config import InterpretConfig
from sae.interpret.report import columns, groups
from sae.interpret.survey import Surveyed
from sae.metrics.intervals import median_interval

OTHER_FEATURE, CONTROL, CONTROL_NEURON = "#7fb3d9", "#3a923a", "#8c6bb1"
LOWEST = {0.5: 0.3, 0.0: -0.3}
"""Left end of the axis, by what chance gives; what lies further out is drawn there."""
FEW = 20
"""Fewer units than that have no shape: each is a point."""
PANELS = (
    ("token_auc", "token: does it fire? AUC", 0.5),
    ("window_auc", "window: does it fire in there? AUC", 0.5),
    ("logit_auc", "is the token promoted? AUC", 0.5),
    ("spearman", "Spearman, all tokens", 0.0),
    ("spearman_sampled", "Spearman, the paper's sample", 0.0),
)
"""Column without its rule, title, what chance gives."""


class Line(NamedTuple):
    """One row of a panel."""

    label: str
    color: str
    surveyed: Surveyed
    mask: Bool[ndarray, " unit"]


def write_plots(found: dict[str, Surveyed], config: InterpretConfig, dictionary_id: str, folder: Path) -> None:
    """For each rule `ngram.png` (all counted units) and `ngram-single-token.png` (those of one token and the others)."""
    colors = dict(zip(found, palette(found, dictionary_id), strict=True))
    for rule in ("token", "ngram"):
        whole, split = [], []
        for name, surveyed in found.items():
            masks = groups(surveyed, config.min_active)
            whole.append(Line(name, colors[name], surveyed, masks["all"]))
            split.append(Line(f"{name}, one token", colors[name], surveyed, masks["single_token"]))
            split.append(Line(f"{name}, others", colors[name], surveyed, masks["others"]))
        for lines, suffix in ((whole, ""), (split, "-single-token")):
            figure = draw(lines, rule, config)
            what = "a token" if rule == "token" else f"up to {config.n_gram} tokens"
            figure.suptitle(
                f"{dictionary_id}: how well a rule by {what}, fitted on other documents, tells what a unit does",
                x=0.01,
                ha="left",
                fontsize=11,
            )
            save(figure, folder / f"{rule}{suffix}.png")


def palette(names: Sequence[str] | dict[str, Surveyed], dictionary_id: str) -> list[str]:
    """The dictionary's features and its transformer's neurons as everywhere; the control's apart."""
    letter = dictionary_id.split("/")[0]
    return [
        FEATURE
        if name == dictionary_id
        else (NEURON if name.endswith("/neurons") else OTHER_FEATURE)
        if name.split("/")[0] == letter
        else (CONTROL_NEURON if name.endswith("/neurons") else CONTROL)
        for name in names
    ]


def draw(lines: Sequence[Line], rule: str, config: InterpretConfig) -> Figure:
    """A panel a score, a line a population."""
    figure, axes = new_figure(rows=1, columns=len(PANELS), size=(15.0, 1.5 + 0.62 * len(lines)))
    for axis, (score, title, chance) in zip(axes[0], PANELS, strict=True):
        name = f"{rule}_{score}"
        axis.axvline(chance, color=MARK, linestyle=":", linewidth=1, zorder=0)
        for height, line in enumerate(lines):
            values = columns(line.surveyed)
            if name in values:
                spread(axis, -height, line, values, name, config, LOWEST[chance])
        axis.set_title(title, loc="left", fontsize=9)
        axis.set_xlim(LOWEST[chance] - 0.01, 1.02)
        axis.set_ylim(-len(lines) + 0.4, 0.6)
        axis.set_yticks(-np.arange(len(lines)), [])
        axis.tick_params(labelsize=8, left=False)
    axes[0, 0].set_yticks(-np.arange(len(lines)), [f"{line.label}\n{int(line.mask.sum()):,}{of(line)}" for line in lines])
    figure.supxlabel(
        "shape: all units; dot and bar: median and its 95 % interval; medians of baselines: | another unit's rule, x shuffled "
        "text (of promoted tokens: the commoner token); dotted: a constant prediction",
        fontsize=8,
        color=MARK,
    )
    return figure


def of(line: Line) -> str:
    """What the units were drawn from, where not all were scored."""
    drawn, n = len(line.surveyed.unit), line.surveyed.n_units
    return f" (sample: {drawn:,} of {n:,})" if drawn < n else ""


def spread(
    axis: Axes,
    height: float,
    line: Line,
    values: dict[str, Float[ndarray, " unit"]],
    name: str,
    config: InterpretConfig,
    lowest: float,
) -> None:
    """The histogram of the scores, mirrored, about `height`; the median with its interval; the baselines."""
    own = values[name][line.mask]
    own = own[~np.isnan(own)]
    if not len(own):
        return
    if len(own) < FEW:
        axis.plot(own, np.full(len(own), height), "|", color=line.color, markersize=14, alpha=0.6)
    else:
        counts, edges = np.histogram(np.clip(own, lowest, 1), bins=np.linspace(lowest, 1, 61))
        half = 0.4 * np.repeat(counts / counts.max(), 2)
        axis.fill_between(np.repeat(edges, 2)[1:-1], height - half, height + half, color=line.color, alpha=0.35, linewidth=0)
    for suffix, mark in (("other", "|"), ("shuffled", "x"), ("frequency", "x")):
        if (baseline := values.get(f"{name}_{suffix}")) is not None:
            axis.plot([np.nanmedian(baseline[line.mask])], [height], mark, color=MARK, markersize=8 if mark == "|" else 5)
    found = median_interval(own, config.n_bootstrap, config.seed)
    median, low, high = (np.array([end], np.float64) for end in found[1:])
    axis.hlines(height, low, high, color="black", linewidth=2, zorder=3)
    axis.plot(median, [height], "o", color=line.color, markeredgecolor="black", markersize=6, zorder=4)
