"""Stage `universality`: pairs of dictionaries -> reports/universality: universality.json, a table and a plot of each pair."""

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.common import Stage, run_stage
from pipelines.plots import FEATURE, MARK, NEURON, new_figure, save, write_csv
from sae import artefact
from sae.features.universality import Universality, UniversalityConfig, compare, told
from sae.library import made_from, open_sides
from sae.reports import write_figures
from sae.storage.tokens import TokenStore

COLORS = {"features": FEATURE, "neurons": NEURON}


def main(stage: Stage) -> None:
    config = stage.section("universality", UniversalityConfig)
    tokens = TokenStore.open(stage.tokens)
    found: dict[str, dict[str, Any]] = {}
    lines = []
    names = [name for pair in config.pairs for name in pair]
    run = stage.run("universality", config, parents=made_from(stage.tokens, names))
    with artefact.writing(stage.all_reports / "universality", run) as draft:
        for first, second in config.pairs:
            universality = compare(*open_sides(first, second, device=str(stage.device)), tokens, config)
            summary = found[f"{first} {second}"] = universality.summary(config)
            lines.append(told(universality, summary))
            name = f"{first}+{second}".replace("/", "-")
            write_csv(draft.path / f"{name}.csv", *columns(universality))
            plot(draft.path / f"{name}.png", universality)
        write_figures(draft.path, "universality", found)
        draft.tell("\n\n".join(lines))


def columns(found: Universality) -> tuple[tuple[str, ...], tuple[np.ndarray, ...]]:
    """Of every feature of the first dictionary: names and values."""
    best, null = found.features.best, found.features.null
    values = {
        "feature": np.arange(len(found.n_active)),
        "n_active": found.n_active,
        "best": best.partner,
        "correlation": best.correlation.round(6),
        "correlation_shuffled_tokens": null.correlation.round(6),
        "logit_correlation": found.effects.logit.round(6),
        "attribution_correlation": found.effects.attribution.round(6),
    }
    if best.matched is not None and best.matched_correlation is not None:
        values |= {"matched": best.matched, "matched_correlation": best.matched_correlation.round(6)}
    return tuple(values), tuple(values.values())


def plot(path: Path, found: Universality) -> None:
    """Left how many units have a best match that good, beside the null; right the correlation by density."""
    figure, axes = new_figure(columns=2, size=(10.0, 4.2))
    edges = np.linspace(-0.1, 1, 56)
    for name, matches in (("features", found.features), ("neurons", found.neurons)):
        if matches is None:
            continue
        for best, style, suffix in ((matches.best, "-", ""), (matches.null, ":", ", shuffled tokens")):
            values = best.correlation[matches.counted]
            label = f"{name}{suffix}: median {np.median(values):.2f}" if len(values) else f"{name}{suffix}: none"
            share = 100 * np.histogram(values, edges)[0] / max(len(values), 1)
            axes[0, 0].stairs(share, edges, color=COLORS[name], linestyle=style, label=label)
    axes[0, 0].set_xlabel("correlation with the best match")
    axes[0, 0].set_ylabel("% of units")
    density = found.n_active / found.n_tokens
    for best, color, label in (
        (found.features.null, MARK, "shuffled tokens"),
        (found.features.best, COLORS["features"], "best match"),
    ):
        fired = found.n_active > 0
        axes[0, 1].scatter(
            np.log10(density[fired]), best.correlation[fired], s=3, color=color, alpha=0.5, linewidths=0, label=label
        )
    axes[0, 1].set_xlabel("log₁₀ density (fraction of tokens on which the feature is above 0)")
    for axis in axes[0]:
        axis.legend(frameon=False, fontsize=8, markerscale=3)
    title = f"{found.first} → {found.second}: Pearson correlation over {found.n_tokens:,} held-out tokens"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    save(figure, path)


if __name__ == "__main__":
    run_stage("universality", main)
