"""Stage `harvest`: data/<transformer> and data/tokens -> data/<letter>/activations.

`python -m pipelines.harvest --shard 0/4` does every fourth task of it (or by RANK and WORLD_SIZE, SLURM_ARRAY_TASK_ID,
JOB_COMPLETION_INDEX); the stage itself, run last, does what is left and commits.
"""

import argparse
import functools
import re
from pathlib import Path

from pipelines.common import Stage, run_stage
from sae.harvest import HarvestConfig, Plan, harvest
from sae.provenance import Run
from sae.source.transformer import load_source
from sae.storage.share import Share
from sae.storage.tokens import TokenStore
from sae.storage.upkeep import verify
from sae.storage.writer import stands


def main(stage: Stage, share: Share | None = None, *, keep: bool = False) -> None:
    config = stage.section("harvest", HarvestConfig)
    tokens = TokenStore.open(stage.tokens)
    split = tokens.split("train")
    source = load_source(stage.transformer, stage.device)
    plan = Plan(config, split, tokens.bos, source.d_mlp)
    print(
        f"harvest: {config.n_rows:,} rows of {source.d_mlp} from {plan.n_contexts:,} of {split.n_contexts:,} train contexts; "
        f"{plan.layout.n_bytes / 2**30:.2f} GiB before compression, {plan.peak_bytes / 2**30:.2f} GiB of disk and "
        f"{plan.memory_bytes / 2**30:.2f} GiB of memory (beside the transformer) at the peak"
    )
    run = stage.run("activations", config, id=stage.transformer_id, parents=(stage.tokens, stage.transformer))
    made = share is None and is_made(stage.activations, run)
    whole = made or harvest(source, split, tokens.bos, config, stage.activations, run, share=share, keep=keep)
    if made:
        print(f"harvest: {stage.activations} is that store already, and every file is whole; remove it to make it again")
    if not whole:
        print("harvest: this share is done, others are not; the store is committed by a run without --shard")


def is_made(store: Path, run: Run) -> bool:
    """Whether nothing is to be done: `store` was made from the same, by the same committed code, and no file is damaged.

    DVC leaves the store in its place (`persist`), so a stage that it was told to run again, or forgot that it ran, finds it."""
    is_revision = re.fullmatch(r"[0-9a-f]{40}", run.code) is not None
    return is_revision and stands(store, run) and not verify(store)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pipelines.harvest", description=__doc__)
    parser.add_argument("--shard", metavar="I/N", type=Share.parse, default=Share.of_environment(), help="this process's share")
    parser.add_argument("--keep", action="store_true", help="refuse, rather than discard, unfinished work with other params")
    given = parser.parse_args()
    run_stage("harvest", functools.partial(main, share=given.shard, keep=given.keep))
