"""Stage `tokens`: data/corpus (or an array of ids) -> data/tokens."""

from dataclasses import asdict, replace

from pipelines.common import Stage, run_stage
from sae import artefact
from sae.source.contexts import TokensConfig, make_contexts, table
from sae.source.corpus_document import read_documents
from sae.source.ids import contexts_of_ids


def main(stage: Stage) -> None:
    config = stage.section("tokens", TokensConfig)
    parents = (stage.corpus,) if config.source == "corpus" else ()
    for parent in parents:
        artefact.read_run(parent, "corpus", made_by="dvc repro corpus")
    run = stage.run("tokens", config, parents=parents)
    with artefact.writing(stage.tokens, run) as draft:
        if config.source == "corpus":
            summary = make_contexts(lambda: read_documents(stage.corpus), config, draft.path)
        else:
            summary = contexts_of_ids(config, draft.path)
        draft.run = replace(run, facts=asdict(summary))
    print(table(summary))
    if config.source == "corpus":
        more = f"{summary.bytes_per_token:.2f} bytes a token; {summary.duplicates_dropped} duplicate documents dropped"
    else:
        more = f"largest id {summary.largest_id}; {summary.duplicates_kept} rows repeat another"
        if summary.n_counted:
            n_counted = sum(summary.n_counted.values())
            n_positions = sum(summary.n_contexts.values()) * summary.context_length
            more += f"; {n_counted:,} of {n_positions:,} positions count (the row there, and the prediction of the next token)"
    train, heldout = summary.n_contexts["train"], summary.n_contexts["heldout"]
    print(
        f"{train:,} train and {heldout:,} held-out contexts of {summary.context_length} "
        f"in {stage.tokens}; vocabulary {summary.n_vocab}, {more}"
    )


if __name__ == "__main__":
    run_stage("tokens", main)
