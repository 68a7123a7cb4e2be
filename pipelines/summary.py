"""Stage `summary`: the figures of the run in one short table, printed and kept as reports/summary.txt."""

import json
from pathlib import Path
from typing import Any

from pipelines.common import Stage, run_stage
from sae import artefact


def main(stage: Stage) -> None:
    transformer = artefact.read_run(stage.transformer, "transformer").facts
    metrics, proxies = _read(stage.reports / "metrics.json"), _read(stage.reports / "proxies.json")
    text = "\n".join([*_figures(stage, transformer, metrics), "", *_proxies(proxies), "", *_places(stage)]) + "\n"
    artefact.write_text(stage.reports / "summary.txt", text)
    print("\n" + text)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _figures(stage: Stage, transformer: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    return [f"{stage.dictionary_id}: {transformer} {metrics}"]


def _proxies(proxies: dict[str, Any]) -> list[str]:
    return [str(proxies)]


def _places(stage: Stage) -> list[str]:
    return [
        f"dictionary   {stage.dictionary}    (from Python: sae.load({stage.dictionary_id!r}))",
        f"figures      {stage.reports}/metrics.json, {stage.reports}/proxies.json, plots in {stage.reports}/",
        f"page         {stage.browser}/index.html    open it with: .venv/bin/sae browse {stage.dictionary_id}",
    ]


if __name__ == "__main__":
    run_stage("summary", main)
