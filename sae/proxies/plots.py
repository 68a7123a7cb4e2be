"""The paper's picture of a hypothesis: activations of the best feature, coloured by the proxy, beside those of the best neuron.

Left, how many tokens have each activation; right, the same weighted by activation ("expected value"), which asks what the
unit is about where it matters. Below, the same of the best neuron (TM, "Arabic Script Feature").
"""

from pathlib import Path

import numpy as np
from numpy import ndarray

from sae.errors import needs
from sae.proxies.agreement import N_INTERVALS, SCORE_EDGES, Tally
from sae.proxies.report import Findings
from sae.proxies.survey import Candidate

with needs("pipeline"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

COLOURS = ("#d5d8dc", "#a9b1ba", "#fbd38a", "#f7a44b", "#e8702d", "#c23b22", "#7f1d1d")
"""One for each bin of the score: grey where it speaks against the hypothesis, warmer the more it speaks for it."""
assert len(COLOURS) == len(SCORE_EDGES) + 1
N_BARS = 33
READING_WORDS = {"sign": "the proxy's sign", "clipped": "max(proxy, 0)", "score": "the proxy"}
OUTLINE = "#16325c"


def plot_hypothesis(findings: Findings, h: int, path: Path) -> None:
    """Write the picture of hypothesis number `h` to `path`, a PNG whose bytes depend on the data alone."""
    matplotlib.use("Agg")
    hypothesis, found = findings.hypotheses[h], findings.found
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    rows = figure.subplots(2, 2)
    for axes, population in zip(rows, ("features", "neurons"), strict=True):
        candidate = findings.best(population, h, "proxy")
        if candidate is None:
            _empty(axes, population, "nothing to correlate with: the proxy never varies on this text")
        else:
            _pair(axes, findings, candidate)
    share = found.n_of_kind[h] / found.n_tokens
    paper = "" if hypothesis.paper is None else f"; the paper's best feature: r = {hypothesis.paper:.2f}"
    figure.suptitle(
        f"{hypothesis.title}: {100 * share:.2g} % of {found.n_tokens:,} held-out tokens{paper}", fontsize=13, fontweight="bold"
    )
    handles, labels = _legend_entries(findings, h)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False,
        title="log-likelihood ratio of the proxy at the token, nats", title_fontsize=9,
    )  # fmt: skip
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _pair(axes: ndarray, findings: Findings, candidate: Candidate) -> None:
    tally, h = findings.tallies[candidate], candidate.hypothesis
    pearson = findings.found.populations[candidate.population].pearson[:, h, candidate.unit]
    hypothesis = findings.hypotheses[h]
    _stack(axes[0], tally.counts, tally, clip=True)
    _stack(axes[1], tally.sums / tally.sums.sum(), tally, clip=False)
    word = "feature" if candidate.population == "features" else "neuron"
    axes[0].set_title(
        f"best {word}: {findings.id(candidate.population, candidate.unit)}\n"
        f"r = {_number(pearson[0])} with {READING_WORDS[hypothesis.reading]}, {_number(pearson[-1])} with documents' kind",
        fontsize=10,
        loc="left",
    )
    axes[0].set_ylabel("tokens")
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes[1].set_title("expected value: the same, weighted by activation", fontsize=10, loc="left")
    axes[1].set_ylabel("share of the summed activation")
    axes[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def _number(r: float) -> str:
    return "–" if np.isnan(r) else f"{r:.2f}"


def _stack(axes: Axes, table: ndarray, tally: Tally, *, clip: bool) -> None:
    """One histogram: bars stacked by score, most telling at the bottom; a line for what is in documents of the kind."""
    bars = table.reshape(N_BARS, N_INTERVALS // N_BARS, *table.shape[1:]).sum(1)
    edges = np.linspace(0, tally.maximum, N_BARS + 1)
    by_score, below = bars.sum(2), np.zeros(N_BARS)
    for i in reversed(range(len(COLOURS))):
        if by_score[:, i].any():
            axes.stairs(below + by_score[:, i], edges, baseline=below, fill=True, color=COLOURS[i], linewidth=0)
        below = below + by_score[:, i]
    axes.stairs(bars[:, :, 1].sum(1), edges, color=OUTLINE, linewidth=1.4)
    axes.set_xlim(0, tally.maximum)
    axes.set_xlabel("activation")
    axes.spines[["top", "right"]].set_visible(False)
    if clip:
        _clip(axes, below)


def _clip(axes: Axes, totals: ndarray) -> None:
    """Cut off the bars of the weakest activations where they would flatten all others, and write their height beside them."""
    limit = 1.15 * np.sort(totals)[-4]
    if limit <= 0 or totals.max() < 3 * limit:
        return
    axes.set_ylim(0, limit)
    tallest = int((totals > limit).sum())
    heights = ", ".join(f"{int(total):,}" for total in totals[totals > limit])
    axes.text(
        0.04 + tallest / N_BARS,
        0.97,
        f"cut off: {heights} tokens",
        transform=axes.transAxes,
        fontsize=8,
        va="top",
        color="#555555",
    )


def _empty(axes: ndarray, population: str, words: str) -> None:
    for ax in axes:
        ax.set_axis_off()
    axes[0].text(0.0, 0.5, f"{population}: {words}", fontsize=10)


def _legend_entries(findings: Findings, h: int) -> tuple[list, list[str]]:
    """The colours that occur, and the line."""
    used = sum(
        (findings.tallies[c].counts.sum((0, 2)) for p in ("features", "neurons") if (c := findings.best(p, h, "proxy"))),
        np.zeros(len(COLOURS), dtype=np.int64),
    )
    bounds = ["", *(f"{edge:g}".replace("-", "−") for edge in SCORE_EDGES), ""]
    handles: list = []
    labels = []
    for i, colour in enumerate(COLOURS):
        if used[i]:
            low, high = bounds[i], bounds[i + 1]
            handles.append(matplotlib.patches.Patch(color=colour))
            labels.append(f"above {low}" if not high else f"up to {high}" if not low else f"{low} to {high}")
    handles.append(matplotlib.lines.Line2D([], [], color=OUTLINE, linewidth=1.4))
    kinds = " or ".join(findings.hypotheses[h].kinds)
    labels.append(f"in a document of kind {kinds}")
    return handles, labels
