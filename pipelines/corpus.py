"""Stage `corpus`: gather documents of text into data/corpus."""

import sys

from pipelines.common import Stage, run_stage
from sae import artefact
from sae.shown import printable
from sae.source.corpus import CorpusConfig, gather
from sae.source.corpus_document import count, write_documents


def main(stage: Stage) -> None:
    config = stage.section("corpus", CorpusConfig)
    documents, short = gather(config)
    facts = count(documents)
    with artefact.writing(stage.corpus, stage.run("corpus", config, **facts, short=short)) as draft:
        write_documents(documents, draft.path)
    for kind, got in short.items():
        print(
            f"corpus: only {got} bytes of {printable(kind)} are installed, less than its share; english and code make it up",
            file=sys.stderr,
        )
    for kind, counts in sorted(facts["by_kind"].items(), key=lambda item: -item[1]["bytes"]):
        share = counts["bytes"] / facts["n_bytes"]
        print(f"{printable(kind):12} {counts['documents']:6} documents {counts['bytes']:10} bytes {share:8.2%}")
    print(f"{'corpus':12} {facts['n_documents']:6} documents {facts['n_bytes']:10} bytes in {stage.corpus}")


if __name__ == "__main__":
    run_stage("corpus", main)
