"""Stage `tokens`: data/corpus (or an array of ids) -> data/tokens."""

import dataclasses

from pipelines.common import Stage, run_stage
from sae import artefact
from sae.source.contexts import TokensConfig, make_contexts, table
from sae.source.corpus import read_documents


def main(stage: Stage) -> None:
    config = stage.section("tokens", TokensConfig)
    run = stage.run("tokens", config, parents=(stage.corpus,))
    with artefact.writing(stage.tokens, run) as draft:
        facts = make_contexts(lambda: read_documents(stage.corpus), config, draft.path)
        draft.run = dataclasses.replace(run, facts=facts)
    print(table(facts))
    print(
        f"{facts['n_contexts']} contexts of {facts['context_length']} in {stage.tokens}; vocabulary {facts['n_vocab']}, "
        f"{facts['bytes_per_token']:.2f} bytes a token; {facts['duplicates_dropped']} duplicate documents dropped"
    )


if __name__ == "__main__":
    run_stage("tokens", main)
