"""Stage `corpus`: gather documents of text into data/corpus."""

import sys
from dataclasses import replace

from pipelines.common import Stage, run_stage
from sae import artefact
from sae.shown import printable
from sae.source.corpus import CorpusConfig, write_corpus


def main(stage: Stage) -> None:
    config = stage.section("corpus", CorpusConfig)
    run = stage.run("corpus", config)
    with artefact.writing(stage.corpus, run) as draft:
        facts = write_corpus(config, draft.path)
        draft.run = replace(run, facts=facts)
    for kind, got in facts["short"].items():
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
