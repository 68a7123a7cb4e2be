"""Stage `harvest`: data/<transformer> and data/tokens -> data/<letter>/activations."""

import dataclasses

from pipelines.common import Stage, run_stage
from sae import artefact
from sae.harvest import DTYPE, HarvestConfig, Plan, harvest
from sae.source.transformer import load_source
from sae.storage.shuffle import bytes_needed
from sae.storage.tokens import TokenStore


def main(stage: Stage) -> None:
    config = stage.section("harvest", HarvestConfig)
    tokens = TokenStore.open(stage.tokens)
    split = tokens.split("train")
    plan = Plan(config, split, tokens.bos)
    source = load_source(stage.transformer, stage.device)
    size = config.n_rows * source.d_mlp * DTYPE.itemsize
    peak = bytes_needed(config.n_rows, source.d_mlp, DTYPE.itemsize)
    print(
        f"harvest: {config.n_rows:,} rows of {source.d_mlp} from {plan.n_contexts:,} of {split.n_contexts:,} train contexts; "
        f"{size / 2**30:.2f} GiB before compression, {peak / 2**30:.2f} GiB of disk at the peak"
    )
    run = stage.run("activations", config, id=stage.transformer_id, parents=(stage.tokens, stage.transformer))
    with artefact.writing(stage.activations, run) as draft:
        facts = harvest(source, split, tokens.bos, config, draft.path)
        draft.run = dataclasses.replace(run, facts=facts)


if __name__ == "__main__":
    run_stage("harvest", main)
