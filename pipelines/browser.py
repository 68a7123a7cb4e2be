"""Stage `browser`: the FeatureTable (and the figures in reports/evaluate) -> data/<letter>/<number>/browser/index.html."""

from pathlib import Path

from pipelines.common import Stage, run_stage
from sae import artefact
from sae.features.table import FeatureTable
from sae.metrics.density import PAPER_ULTRALOW
from sae.web.browser import BrowserConfig, build
from sae.web.figures import headline, identity, read_metrics


def main(stage: Stage) -> None:
    config = stage.section("browser", BrowserConfig)
    table = FeatureTable.open(stage.features)
    metrics, missing = read_metrics(stage.reports, stage.dictionary, Path())
    if missing:
        print(f"browser: the page goes without the figures of {stage.dictionary_id}: {missing}")
    ultralow = metrics.get("features", {}).get("ultralow_threshold", PAPER_ULTRALOW)
    parents = (stage.features, stage.dictionary, *(() if missing else (stage.reports / "evaluate",)))
    run = stage.run("browser", config, id=stage.dictionary_id, parents=parents, n_features=len(table))
    with artefact.writing(stage.browser, run) as draft:
        build(table, draft.path, config, [*identity(stage.dictionary), *headline(metrics)], ultralow)
    size = sum(file.stat().st_size for file in stage.browser.rglob("*") if file.is_file())
    shown = min(config.n_features or len(table), len(table))
    print(
        f"browser: {shown:,} features, {size / 1e6:.1f} MB ({size / max(shown, 1) / 1e3:.1f} kB each): {stage.browser}/index.html"
    )


if __name__ == "__main__":
    run_stage("browser", main)
