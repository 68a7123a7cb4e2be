"""The pictures of stage `evaluate`, and their numbers as CSV for `dvc plots`. The same numbers give the same bytes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter

from pipelines.plots import FEATURE, MARK, NEURON, new_figure, save, write_csv
from sae import artefact
from sae.features.evaluation import EvaluateConfig, Evaluation
from sae.metrics.density import Firing, log_edges, log_histogram
from sae.provenance import Run

HISTORY = "history.jsonl"
"""Of a dictionary: what its training recorded."""
CURVES = (
    ("loss", "loss: squared error + λ L1", "log"),
    ("squared_error", "squared error, summed over d_mlp", "log"),
    ("l0", "L0: active features a row", "log"),
    ("fvu", "fraction of variance unexplained", "linear"),
    ("n_dead", "dead features, in the counting window so far", "linear"),
    ("learning_rate", "learning rate", "linear"),
)
"""Key in history.jsonl, label, scale."""


def write_plots(
    found: Evaluation, config: EvaluateConfig, dictionary_id: str, history: Sequence[dict[str, Any]], folder: Path
) -> None:
    """density.png, l0.png, cosine.png, density.csv, l0.csv, and training.png where there is a `history`."""
    features, neurons = found.densities.features, found.densities.neurons
    edges = log_edges(features.n_rows)
    counts = [log_histogram(firing, edges) for firing in (features, neurons)]
    middle = (edges[1:] + edges[:-1]) / 2
    write_csv(folder / "density.csv", ("log10_density", "features", "neurons"), (middle.round(6), *counts))
    density_plot(folder / "density.png", found, config, edges, counts, dictionary_id)
    longest = int(np.flatnonzero(features.l0_rows.cpu().numpy()).max(initial=0)) + 1
    write_csv(folder / "l0.csv", ("n_active", "tokens"), (np.arange(longest), features.l0_rows[:longest].cpu().numpy()))
    l0_plot(folder / "l0.png", features, neurons, dictionary_id)
    cosine_plot(folder / "cosine.png", found, config, dictionary_id)
    training_plot(folder / "training.png", history, dictionary_id)


def read_history(dictionary: Path, run: Run) -> list[dict[str, Any]]:
    """The training's records, and its events, which have the key `event`, of the dictionary whose record is `run`; none where it
    has none. Raises `StoreError` where they are not what was committed."""
    if HISTORY not in run.files:
        return []
    artefact.verify(dictionary, run, only=(HISTORY,))
    text = (dictionary / HISTORY).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def density_plot(
    path: Path,
    found: Evaluation,
    config: EvaluateConfig,
    edges: np.ndarray,
    counts: Sequence[np.ndarray],
    dictionary_id: str,
) -> None:
    """Share of all units in each bin of log10 density, features over neurons."""
    figure, axes = new_figure()
    axis: Axes = axes[0, 0]
    firings = (found.densities.features, found.densities.neurons)
    for firing, count, color, name in zip(firings, counts, (FEATURE, NEURON), ("features", "neurons"), strict=True):
        n_units = len(firing.n_active)
        dead = int((firing.n_active == 0).sum())
        label = f"{n_units:,} {name}, {dead:,} never active, L0 {firing.l0:.1f}"
        axis.stairs(100 * count / n_units, edges, fill=True, color=color, alpha=0.35)
        axis.stairs(100 * count / n_units, edges, color=color, label=label)
    axis.set_xlabel("log₁₀ density (fraction of tokens on which a unit is above 0)")
    axis.set_ylabel("% of units")
    axis.set_title(f"{dictionary_id}: density over {firings[0].n_rows:,} held-out tokens", loc="left", fontsize=11)
    axis.set_xlim(edges[0], 0)
    axis.set_ylim(0, 1.3 * axis.get_ylim()[1])
    _ultralow_line(axis, config.ultralow)
    axis.legend(frameon=False, loc="upper right")
    save(figure, path)


def _ultralow_line(axis: Axes, threshold: float) -> None:
    if np.log10(threshold) > axis.get_xlim()[0]:
        axis.axvline(np.log10(threshold), color=MARK, linestyle=":", linewidth=1, zorder=0)
        note = f"ultralow: below {threshold:g} "
        axis.text(np.log10(threshold), axis.get_ylim()[1], note, ha="right", va="top", rotation=90, fontsize=8, color=MARK)


def l0_plot(path: Path, features: Firing, neurons: Firing, dictionary_id: str) -> None:
    """How many units a token has active, features and neurons beside each other."""
    figure, axes = new_figure(columns=2, size=(8.4, 3.6))
    for axis, firing, color, name in zip(axes[0], (features, neurons), (FEATURE, NEURON), ("features", "neurons"), strict=True):
        rows = firing.l0_rows.cpu().numpy()
        share = 100 * rows / max(firing.n_rows, 1)
        used = np.flatnonzero(np.cumsum(rows) <= 0.999 * firing.n_rows)
        end = int(used[-1]) + 2 if len(used) else 1
        axis.stairs(share[: end + 1], np.arange(end + 2) - 0.5, fill=True, color=color, alpha=0.6)
        axis.axvline(firing.l0, color=MARK, linestyle=":", linewidth=1)
        axis.set_title(f"{name}: mean {firing.l0:.1f} of {len(firing.n_active):,}", loc="left", fontsize=10)
        axis.set_xlabel(f"{name} active on a token")
        axis.set_xlim(-0.5, end + 0.5)
    axes[0, 0].set_ylabel("% of tokens")
    figure.suptitle(f"{dictionary_id}: L0 on held-out tokens (up to the 99.9th percentile)", x=0.01, ha="left", fontsize=11)
    save(figure, path)


def cosine_plot(path: Path, found: Evaluation, config: EvaluateConfig, dictionary_id: str) -> None:
    """Encoder and decoder directions against density: the ultralow cluster lies low on the left."""
    figure, axes = new_figure()
    axis: Axes = axes[0, 0]
    density, cosine = found.densities.features.density.cpu().numpy(), found.cosine.cpu().numpy()
    low = (density > 0) & (density < config.ultralow)
    rest = density >= config.ultralow
    if rest.any():
        axis.scatter(np.log10(density[rest]), cosine[rest], s=5, color=FEATURE, alpha=0.5, linewidths=0, label="the others")
    if low.any():
        label = f"ultralow (density below {config.ultralow:g}): {low.sum():,}"
        axis.scatter(np.log10(density[low]), cosine[low], s=7, color=NEURON, alpha=0.7, linewidths=0, label=label)
    axis.set_xlim(log_edges(found.densities.features.n_rows)[0], 0)
    axis.set_ylim(min(-0.1, float(cosine.min(initial=0)) - 0.05), 1.05)
    _ultralow_line(axis, config.ultralow)
    axis.set_xlabel("log₁₀ density (fraction of tokens on which the feature is above 0)")
    axis.set_ylabel("cosine of encoder row and dictionary vector")
    dead = int((density == 0).sum())
    axis.set_title(f"{dictionary_id}: {len(density):,} features, {dead:,} never active (not shown)", loc="left", fontsize=11)
    if rest.any() or low.any():
        axis.legend(frameon=False, loc="upper center", markerscale=3)
    save(figure, path)


def training_plot(path: Path, history: Sequence[dict[str, Any]], dictionary_id: str) -> None:
    """The curves of `CURVES` that the history has, with a line at every resampling."""
    rows = [row for row in history if "event" not in row]
    present = [curve for curve in CURVES if any(isinstance(row.get(curve[0]), int | float) for row in rows)]
    if not present:
        return
    n_rows = -(-len(present) // 3)
    figure, axes = new_figure(rows=n_rows, columns=3, size=(10.5, 0.5 + 2.7 * n_rows))
    for axis in axes.flat[len(present) :]:
        axis.set_visible(False)
    for axis, (key, label, scale) in zip(axes.flat, present, strict=False):
        points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
        axis.plot(*zip(*points, strict=True), color=FEATURE, linewidth=1)
        if scale == "log" and all(value > 0 for _, value in points):
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.2, 0.6)))
        else:
            axis.set_ylim(0)
        for row in history:
            if row.get("event") == "resampling":
                axis.axvline(row["step"], color=MARK, linestyle=":", linewidth=0.8)
        axis.set_title(label, loc="left", fontsize=9)
        axis.set_xlabel("step", fontsize=9)
        axis.tick_params(labelsize=8, which="both")
    figure.suptitle(f"{dictionary_id}: training (dotted: resampling of dead features)", x=0.01, ha="left", fontsize=11)
    save(figure, path)
