"""Stage `summary`: the figures of the run in one short table, printed and kept as reports/summary.txt."""

from pathlib import Path
from typing import Any

from pipelines.common import Stage, run_stage
from sae import artefact
from sae.metrics.losses import told_recovered
from sae.provenance import Run
from sae.reports import open_report


def main(stage: Stage) -> None:
    transformer = artefact.read_run(stage.transformer, "transformer")
    metrics, proxies = _read(stage, "evaluate", "evaluation", "metrics"), _read(stage, "proxies", "proxies", "proxies")
    sections = [_transformer(stage, transformer), _dictionary(stage, metrics), _proxies(proxies), _places(stage)]
    text = "\n\n".join("\n".join(section) for section in sections) + "\n"
    artefact.write_text(stage.reports / "summary.txt", text)
    print("\n" + text)


def _read(stage: Stage, name: str, kind: str, figures: str) -> dict[str, Any]:
    """Those of this very dictionary."""
    report = open_report(stage.reports / name, kind, Path(), made_by=f"dvc repro {name}", of=stage.dictionary)
    return report.figures(figures)


def _line(name: str, value: str) -> str:
    return f"  {name:<44}{value}"


def _transformer(stage: Stage, run: Run) -> list[str]:
    facts, asked = run.facts, run.params.get("precision")
    trained_in = facts.get("precision")  # a pretrained one has none
    chosen = " (precision: auto, by this processor; another may take another)" if asked == "auto" else ""
    return [
        f"transformer {stage.transformer_id}, held-out text, nats a token",
        _line("loss", f"{facts['heldout_loss']:.3f}"),
        _line("bigram (Kneser-Ney), unigram", f"{facts['bigram_loss']:.3f}, {facts['unigram_loss']:.3f}"),
        *([_line("trained in", f"{trained_in}{chosen}")] if trained_in else []),
    ]


def _dictionary(stage: Stage, metrics: dict[str, Any]) -> list[str]:
    features, rows, losses = metrics["features"], metrics["reconstruction"], metrics["transformer"]
    ultralow = features["n_ultralow"]
    counted = (
        "too few tokens to count" if ultralow is None else f"{ultralow:,} (density under {features['ultralow_threshold']:g})"
    )
    return [
        f"dictionary {stage.dictionary_id}, {features['n_units']:,} features, held-out text",
        _line("L0 (active features a token; neurons)", f"{rows['l0']:.1f} ({metrics['neurons']['l0']:.1f})"),
        _line("fraction of variance unexplained", f"{rows['fvu']:.3f}"),
        _line(
            "loss recovered against zero, mean ablation",
            f"{told_recovered(losses, 'zero', error=True)}, {told_recovered(losses, 'mean', error=True)}",
        ),
        _line("nats a token lost, KL", f"{losses['nats_lost']:.4f}, {losses['kl']:.4f}"),
        _line("dead features", f"{features['n_dead']:,} of {features['n_units']:,} over {features['n_tokens']:,} tokens"),
        _line("ultralow features", counted),
    ]


def _proxies(proxies: dict[str, Any]) -> list[str]:
    lines = ["correlation with the proxy / with the document's kind: best feature, best neuron"]
    for name, found in proxies["hypotheses"].items():
        lines.append(_line(name, ",  ".join(_unit(found[unit]) for unit in ("best_feature", "best_neuron"))))
    return lines


def _unit(unit: dict[str, Any] | None) -> str:
    if unit is None:
        return "none"
    values = ("-" if unit[key] is None else f"{unit[key]:.2f}" for key in ("pearson_proxy", "pearson_kind"))
    return f"{unit['id']} {' / '.join(values)}"


def _places(stage: Stage) -> list[str]:
    return [
        "where things are",
        _line(f"dictionary: sae.load({stage.dictionary_id!r})", str(stage.dictionary)),
        _line("figures", f"{stage.reports}/evaluate/metrics.json, {stage.reports}/proxies/proxies.json"),
        _line("plots", f"{stage.reports}/evaluate/, {stage.reports}/proxies/"),
        _line("page of all features", f"{stage.browser}/index.html"),
        _line("report of all that was found", f"{stage.browser.parent}/report/index.html"),
        _line("open it with", f".venv/bin/sae browse {stage.dictionary_id}"),
    ]


if __name__ == "__main__":
    run_stage("summary", main)
