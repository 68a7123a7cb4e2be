"""Stage `evaluate`: the figures of a dictionary -> reports/evaluate/metrics.json, and plots with their data beside it."""

from pipelines.common import Stage, run_stage
from pipelines.evaluate_plots import read_history, write_plots
from sae import artefact
from sae.dictionary.disk import read_dictionary
from sae.features.evaluation import EvaluateConfig, evaluate
from sae.metrics.losses import told_recovered
from sae.reports import rounded, write_figures
from sae.source.transformer import load_source
from sae.storage.tokens import TokenStore


def main(stage: Stage) -> None:
    config = stage.section("evaluate", EvaluateConfig)
    tokens = TokenStore.open(stage.tokens)
    source = load_source(stage.transformer, stage.device)
    dictionary = read_dictionary(stage.dictionary).to(stage.device)
    assert dictionary.run is not None, "a dictionary that was read has a run"
    history = read_history(stage.dictionary, dictionary.run)
    heldout = tokens.split("heldout")
    for name in ("n_tokens", "n_density_tokens"):
        if getattr(config, name) > heldout.n_tokens:
            print(
                f"evaluate: {name} {getattr(config, name):,} asked for, the held-out split has {heldout.n_tokens:,}: all are used"
            )
    found = evaluate(source, dictionary, heldout, config)
    metrics = rounded(found.metrics(config))
    # `precision: auto` is another on another processor, and so are the figures: it stands among those that runs are compared by.
    metrics["transformer"]["precision"] = artefact.read_run(stage.transformer, "transformer").facts.get("precision")
    run = stage.run("evaluation", config, id=stage.dictionary_id, parents=(stage.tokens, stage.transformer, stage.dictionary))
    with artefact.writing(stage.reports / "evaluate", run) as draft:
        write_plots(found, config, stage.dictionary_id, history, draft.path)
        write_figures(draft.path, "metrics", metrics)
    losses, features = metrics["transformer"], metrics["features"]
    print(
        f"{stage.dictionary_id}: loss recovered {told_recovered(losses, 'zero')} against zero ablation, "
        f"{told_recovered(losses, 'mean')} against mean ablation, at an L0 of {metrics['reconstruction']['l0']:.1f}; "
        f"{features['n_alive']:,} of {features['n_units']:,} features alive over {features['n_tokens']:,} tokens"
    )


if __name__ == "__main__":
    run_stage("evaluate", main)
