"""Stage `evaluate`: reports/metrics.json, and plots with their data in reports/evaluate."""

import json
import math
from typing import Any

from pipelines.common import Stage, run_stage
from pipelines.plots import write_plots
from sae import artefact
from sae.dictionary.disk import read_dictionary
from sae.features.evaluation import EvaluateConfig, evaluate
from sae.metrics.losses import told_recovered
from sae.source.transformer import load_source
from sae.storage.tokens import TokenStore


def main(stage: Stage) -> None:
    config = stage.section("evaluate", EvaluateConfig)
    tokens = TokenStore.open(stage.tokens)
    source = load_source(stage.transformer, stage.device)
    dictionary = read_dictionary(stage.dictionary).to(stage.device)
    heldout = tokens.split("heldout")
    for name in ("n_tokens", "n_density_tokens"):
        if getattr(config, name) > heldout.n_tokens:
            print(
                f"evaluate: {name} {getattr(config, name):,} asked for, the held-out split has {heldout.n_tokens:,}: all are used"
            )
    found = evaluate(source, dictionary, heldout, config)
    metrics = rounded(found.metrics(config))
    run = stage.run("evaluation", config, id=stage.dictionary_id, parents=(stage.tokens, stage.transformer, stage.dictionary))
    with artefact.writing(stage.reports / "evaluate", run) as draft:
        write_plots(found, config, stage.dictionary_id, stage.dictionary / "history.jsonl", draft.path)
    artefact.write_text(stage.reports / "metrics.json", json.dumps(metrics, indent=1, sort_keys=True) + "\n")
    losses, features = metrics["transformer"], metrics["features"]
    print(
        f"{stage.dictionary_id}: loss recovered {told_recovered(losses, 'zero')} against zero ablation, "
        f"{told_recovered(losses, 'mean')} against mean ablation, at an L0 of {metrics['reconstruction']['l0']:.1f}; "
        f"{features['n_alive']:,} of {features['n_units']:,} features alive over {features['n_tokens']:,} tokens"
    )


def rounded(value: Any) -> Any:
    """Six significant digits: more than the standard errors give, fewer than the last bits of another machine. NaN is null."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


if __name__ == "__main__":
    run_stage("evaluate", main)
