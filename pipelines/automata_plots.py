"""The pictures of stage `automata`: both numbers beside their nulls, and the motifs with the tokens that name their features."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import FancyArrowPatch

from pipelines.plots import FEATURE, MARK, NEURON, new_figure, save
from sae.automata.edges import LOWEST, Automata
from sae.automata.motifs import Motif, Motifs
from sae.automata.report import top_tokens

ROWS, LOOPS, LONGEST = 8, 2, 5
"""Motifs below each other, columns of self-loops, and features of a chain that are drawn."""
STEP = 1.6
"""From one feature to the next."""
SHOWN = 7
"""Characters of a token."""


def draw_control(path: Path, found: Automata) -> None:
    """How many pairs have which number, true and by chance; dotted, what an edge needs."""
    figure, axes = new_figure(columns=2, size=(10.0, 4.0))
    p = found.pairs
    enough, by_chance = p.n >= found.min_count, p.n_shuffled >= found.min_count
    passed = enough & (p.observed >= found.least[0]) & (p.lift > 1)
    panels = (
        (p.observed[enough], p.observed_shuffled[by_chance], "observed: firing at the next token", "order shuffled"),
        (p.causal[passed], p.causal_shuffled[passed], "causal: effect on the next token", "tokens exchanged"),
    )
    for axis, (true, null, label, name), least in zip(axes[0], panels, found.least, strict=True):
        both = np.concatenate([true, null, [0.0, 1.0]])
        lowest = max(both.min(), LOWEST) if axis is axes[0, 0] else both.min()  # pairs below are not all kept
        edges = np.linspace(lowest, max(np.quantile(both, 0.999), lowest + 1), 60)
        for values, color, words in ((true, FEATURE, "as it is"), (null, NEURON, name)):
            axis.stairs(np.histogram(values, edges)[0], edges, color=color, label=f"{words}: {(values >= least).sum():,} above")
        axis.set_yscale("symlog", linthresh=1)
        axis.set_xlabel(f"{label}, standard deviations")
        if np.isfinite(least):
            axis.axvline(least, color=MARK, linestyle=":", linewidth=1)
        axis.legend(frameon=False, fontsize=8)
    axes[0, 0].set_ylabel("pairs of features")
    title = f"{found.id}: {int(found.mask().sum()):,} edges, {found.n_steps:,} steps"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    save(figure, path)


def draw_motifs(path: Path, found: Automata, listed: Motifs, vocabulary: Sequence[bytes]) -> None:
    """The strongest self-loops, two-cycles and chains. Beside each arrow the probability that the second fires next."""
    figure, axes = new_figure(columns=3, size=(15.0, 7.5))
    axes[0, 0].get_gridspec().set_width_ratios([1.3, 1, 2.3])
    edges = found.edges
    chance = edges.n / np.maximum(found.n_active[edges.first], 1)
    probability = {(int(i), int(j)): float(p) for i, j, p in zip(edges.first, edges.second, chance, strict=True)}
    for axis, some, name in (
        (axes[0, 0], listed.self_loops, "self-loops"),
        (axes[0, 1], listed.two_cycles, "two-cycles"),
        (axes[0, 2], listed.chains, "chains"),
    ):
        axis.set_axis_off()
        axis.set_title(f"{name}: the strongest of {listed.counts[name.replace('-', '_')]:,}", loc="left", fontsize=10)
        columns = LOOPS if name == "self-loops" else 1
        for k, motif in enumerate(some[: ROWS * columns]):
            _draw(axis, STEP * (k // ROWS), -(k % ROWS), motif, found, probability, vocabulary)
        width = {"self-loops": LOOPS, "two-cycles": 2, "chains": LONGEST}[name]
        axis.set_xlim(-0.6, STEP * (width - 1) + (1.2 if name == "self-loops" else 0.6))
        axis.set_ylim(-ROWS + 0.4, 0.6)
    title = f"{found.id}: which feature announces which (each box: a feature and the tokens that it fires on most)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    save(figure, path)


def _draw(
    axis: Axes,
    x: float,
    y: float,
    motif: Motif,
    found: Automata,
    probability: dict[tuple[int, int], float],
    vocabulary: Sequence[bytes],
) -> None:
    features = motif.features[:LONGEST]
    names = top_tokens(features, found.means, found.token_count, vocabulary)
    for k, (feature, tokens) in enumerate(zip(features, names, strict=True)):
        label = "\n".join([f"{feature}", *(shown(token) for token in tokens)])
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": FEATURE}
        axis.text(x + STEP * k, y, label, ha="center", va="center", fontsize=7, parse_math=False, bbox=box, zorder=3)
    if len(features) == 1:
        _arrow(axis, (x + 0.3, y + 0.18), (x + 0.3, y - 0.18), -1.6, probability[features[0], features[0]], (x + 0.85, y))
        return
    for k, pair in enumerate(pairwise(features)):
        back = probability.get((pair[1], pair[0])) if len(motif.features) == 2 else None
        lift = 0.0 if back is None else 0.14
        ends = (STEP * k + 0.42, y + lift), (STEP * (k + 1) - 0.42, y + lift)
        _arrow(axis, *ends, 0.0, probability[pair], (STEP * (k + 0.5), y + lift + 0.1))
        if back is not None:
            _arrow(axis, (ends[1][0], y - lift), (ends[0][0], y - lift), 0.0, back, (STEP * (k + 0.5), y - lift - 0.12))


def _arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], bend: float, chance: float, where: tuple[float, float]
) -> None:
    style = f"arc3,rad={bend}"
    axis.add_patch(
        FancyArrowPatch(start, end, connectionstyle=style, arrowstyle="-|>", mutation_scale=9, color=MARK, linewidth=1)
    )
    axis.text(*where, f"{chance:.0%}", ha="center", va="center", fontsize=7, color=MARK)


def shown(token: str) -> str:
    """At most `SHOWN` characters; those that the font lacks by their number, blanks as ·."""
    font = get_font(findfont(FontProperties()))
    cut = token if len(token) <= SHOWN else token[: SHOWN - 1] + "…"
    known = (char if font.get_char_index(ord(char)) else f"\\u{ord(char):04x}" for char in cut)
    return "".join(known).replace(" ", "·")
