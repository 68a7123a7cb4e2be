"""Stage `controls`: for every hypothesis of the proxies the best feature and the best neuron of several dictionaries, that of a
transformer with shuffled weights among them -> reports/controls: controls.json and a plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.common import Stage, run_stage
from pipelines.plots import MARK, new_figure, save
from sae import artefact
from sae.reports import open_report, write_figures

MEASURES = ("pearson_proxy", "pearson_kind")
COLORS = ("#1f77b4", "#d95f02", "#3a923a", "#8c6bb1", "#7fb3d9", "#e7298a", "#a6761d", "#17becf", "#bcbd22", "#444444")


@dataclass(frozen=True, kw_only=True)
class ControlsConfig:
    """Section `controls`."""

    dictionaries: tuple[str, ...] = ()
    """Such as [A/1, S/0], whose proxies are there; neurons are shown once a transformer."""


def main(stage: Stage) -> None:
    config = stage.section("controls", ControlsConfig)
    folders = {name: stage.all_reports / name.replace("/", "-") / "proxies" for name in config.dictionaries}
    words = side_by_side({name: _read(folder) for name, folder in folders.items()})
    run = stage.run("controls", config, parents=tuple(folders.values()))
    with artefact.writing(stage.all_reports / "controls", run) as draft:
        if words:
            plot(draft.path / "proxies.png", words)
        write_figures(draft.path, "controls", words)
        draft.tell(table(words))


def _read(folder: Path) -> dict[str, Any]:
    return open_report(folder, "proxies", Path(), made_by="the stage `proxies` of that dictionary").figures("proxies")


def side_by_side(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """By hypothesis and population (`A/1`, `A/neurons`): the best unit's id, its correlations with the proxy and with the kind of
    document, and those of the best by the kind alone."""
    words: dict[str, dict[str, dict[str, Any]]] = {}
    for dictionary, report in found.items():
        for hypothesis, row in report["hypotheses"].items():
            populations = words.setdefault(hypothesis, {})
            for key, name in (("feature", dictionary), ("neuron", f"{dictionary.split('/')[0]}/neurons")):
                populations.setdefault(name, _best(row, key))
    return words


def _best(row: dict[str, Any], key: str) -> dict[str, Any]:
    by_proxy, by_kind = row[f"best_{key}"] or {}, row[f"best_{key}_by_kind"] or {}
    return {
        "id": by_proxy.get("id"),
        **{measure: by_proxy.get(measure) for measure in MEASURES},
        "id_by_kind": by_kind.get("id"),
        "pearson_kind_by_kind": by_kind.get("pearson_kind"),
        "n_pure": row[f"n_pure_{key}s"],
    }


def table(words: dict[str, Any]) -> str:
    """A line a hypothesis: of each population's best unit the correlations with proxy / kind."""
    names = _names(words)
    lines = [f"{'best unit: proxy / kind':24}" + "".join(f"{name:>16}" for name in names)]
    for hypothesis, row in words.items():
        cells = ["/".join(_told(row[name][measure]) for measure in MEASURES) if name in row else "-" for name in names]
        lines.append(f"{hypothesis:24}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _names(words: dict[str, dict[str, Any]]) -> list[str]:
    """All populations, features before neurons."""
    names = dict.fromkeys(name for row in words.values() for name in row)
    return sorted(names, key=lambda name: name.endswith("/neurons"))


def plot(path: Path, words: dict[str, dict[str, dict[str, Any]]]) -> None:
    """A panel a measure, a line a hypothesis, a dot a population; the best by that very measure."""
    panels = (
        ("pearson_proxy", "best unit's correlation with the proxy"),
        ("pearson_kind_by_kind", "best unit's correlation with the documents' kind"),
    )
    names = _names(words)
    figure, axes = new_figure(columns=len(panels), size=(11.0, 1.6 + 0.45 * len(words)))
    at = -np.arange(len(words), dtype=np.float64)
    for axis, (measure, title) in zip(axes[0], panels, strict=True):
        for height in at:
            axis.axhline(height, color=MARK, linewidth=0.4, alpha=0.4, zorder=0)
        for i, name in enumerate(names):
            values = [row.get(name, {}).get(measure) for row in words.values()]
            known = [(value, height) for value, height in zip(values, at, strict=True) if value is not None]
            marker = "^" if name.endswith("/neurons") else "o"
            axis.plot(*_columns(known), marker, color=COLORS[i % len(COLORS)], markersize=6, alpha=0.85, label=name)
        axis.set_xlim(-0.05, 1.02)
        axis.set_yticks(at, list(words) if axis is axes[0, 0] else [])
        axis.set_title(title, loc="left", fontsize=10)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    save(figure, path)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


if __name__ == "__main__":
    run_stage("controls", main)
