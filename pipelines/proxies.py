"""Stage `proxies`: the features and neurons for Arabic, Hebrew, DNA, base64 ... -> reports/proxies."""

from typing import Any

from pipelines.common import Stage, run_stage
from sae import artefact
from sae.dictionary.disk import read_dictionary
from sae.proxies.hypotheses import ProxiesConfig
from sae.proxies.plots import plot_hypothesis
from sae.proxies.report import find, report
from sae.reports import write_figures
from sae.source.transformer import load_source
from sae.storage.tokens import TokenStore


def main(stage: Stage) -> None:
    config = stage.section("proxies", ProxiesConfig)
    store = TokenStore.open(stage.tokens)
    source = load_source(stage.transformer, stage.device)
    dictionary = read_dictionary(stage.dictionary).to(stage.device)
    parents = (stage.tokens, stage.transformer, stage.dictionary)
    names = {"transformer_id": stage.transformer_id, "dictionary_id": stage.dictionary_id}
    with artefact.writing(
        stage.reports / "proxies", stage.run("proxies", config, id=stage.dictionary_id, parents=parents)
    ) as draft:
        if store.tokenizer_path is None:
            print("proxies: the tokens were made from ids, not from text: nothing to compare with, an empty report is written")
            words: dict[str, Any] = {"hypotheses": {}, "kinds": {}, "n_tokens": 0, "n_tokens_wanted": 0}
        else:
            findings = find(store, source, dictionary, config, **names)
            for h, hypothesis in enumerate(findings.hypotheses):
                plot_hypothesis(findings, h, draft.path / f"{hypothesis.name}.png")
            words = report(findings, config)
        write_figures(draft.path, "proxies", words)
        draft.tell(table(words, stage.dictionary_id))


def table(words: dict[str, Any], name: str) -> str:
    """A line a hypothesis: the best feature and the best neuron with their correlations."""
    less = (
        "" if words["n_tokens"] >= 0.9 * words["n_tokens_wanted"] else f" (all there are; {words['n_tokens_wanted']:,} asked for)"
    )
    lines = [
        f"{name}: proxies on {words['n_tokens']:,} held-out tokens{less}; correlations with proxy / documents' kind",
        f"{'':12}{'tokens':>8}  {'best feature':<30}{'best neuron':<30}{'paper':>6}  pure units (features, neurons)",
    ]
    for key, row in words["hypotheses"].items():
        cells = [_cell(row[unit]) for unit in ("best_feature", "best_neuron")]
        paper = "-" if row["paper_pearson_proxy"] is None else f"{row['paper_pearson_proxy']:.2f}"
        pure = f"{row['n_pure_features']}, {row['n_pure_neurons']}"
        lines.append(f"{key:12}{row['n_tokens']:>8,}  {cells[0]:<30}{cells[1]:<30}{paper:>6}  {pure}")
    return "\n".join(lines)


def _cell(unit: dict[str, Any] | None) -> str:
    if unit is None:
        return "-"
    by_proxy, by_kind = ("  -  " if value is None else f"{value:.2f}" for value in (unit["pearson_proxy"], unit["pearson_kind"]))
    return f"{unit['id']} {by_proxy} / {by_kind}"


if __name__ == "__main__":
    run_stage("proxies", main)
