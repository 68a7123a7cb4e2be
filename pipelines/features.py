"""Stage `features`: data/tokens, the transformer and the dictionary -> data/<letter>/<number>/features."""

import dataclasses
import time

import numpy as np

from pipelines.common import Stage, run_stage
from sae import artefact
from sae.dictionary.disk import read_dictionary
from sae.features.collect import FeaturesConfig, collect
from sae.features.table import FeatureTable
from sae.source.transformer import load_source
from sae.storage.tokens import TokenStore


def main(stage: Stage) -> None:
    config = stage.section("features", FeaturesConfig)
    tokens = TokenStore.open(stage.tokens)
    source = load_source(stage.transformer, stage.device)
    dictionary = read_dictionary(stage.dictionary).to(stage.device)
    parents = (stage.tokens, stage.transformer, stage.dictionary)
    run = stage.run("features", config, id=stage.dictionary_id, parents=parents)
    start = time.monotonic()
    with artefact.writing(stage.features, run) as draft:
        table = collect(source, dictionary, tokens, config)
        table.write(draft.path)
        draft.run = dataclasses.replace(run, facts=facts(table))
    seconds = time.monotonic() - start
    heldout = tokens.split("heldout")
    if config.n_tokens > heldout.n_tokens:
        print(f"features: {config.n_tokens:,} tokens asked for, the held-out split has {heldout.n_tokens:,}: all of it was read")
    found = facts(table)
    print(
        f"features: {found['n_features']:,} over {found['n_tokens']:,} held-out tokens in {seconds:.0f} s "
        f"({1000 * seconds / max(len(table), 1):.1f} ms a feature); {found['n_never_fired']:,} never fired, L0 {found['l0']:.1f}"
    )


def facts(table: FeatureTable) -> dict[str, object]:
    """What run.json says of the table."""
    return {
        "n_features": len(table),
        "n_tokens": table.info.n_tokens,
        "n_contexts": table.info.n_contexts,
        "n_never_fired": int((table["n_active"] == 0).sum()),
        "l0": float(table["n_active"].sum() / table.info.n_tokens),
        "n_examples": int(np.count_nonzero(table["example_interval"] >= 0)),
        "inverse_scale": table.info.inverse_scale,
    }


if __name__ == "__main__":
    run_stage("features", main)
