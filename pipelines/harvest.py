"""Stage `harvest`: data/<transformer> and data/tokens -> data/<letter>/activations; a record alone where `train.source: live`.

`python -m pipelines.harvest --shard 0/4` does every fourth task of it (or by RANK and WORLD_SIZE, SLURM_ARRAY_TASK_ID,
JOB_COMPLETION_INDEX); the stage itself, run last, does what is left and commits.
"""

import functools
import re
from pathlib import Path

from pipelines.common import Stage, run_stage, stage_parser
from pipelines.feed import feed_config
from sae import artefact
from sae.errors import StoreError
from sae.harvest import HarvestConfig, Plan, harvest, seconds_needed
from sae.provenance import Run
from sae.source.transformer import load_source
from sae.storage.ended import abandon, stands, sweep_left_over
from sae.storage.layout import LIVE
from sae.storage.share import Share
from sae.storage.tokens import TokenStore
from sae.storage.transfer import push
from sae.storage.upkeep import verify


def main(stage: Stage, share: Share | None = None, *, keep: bool = False) -> None:
    config = stage.section("harvest", HarvestConfig)
    tokens = TokenStore.open(stage.tokens)
    split = tokens.split("train")
    source = load_source(stage.transformer, stage.device)
    plan = Plan(config, split, tokens.bos, source.d_mlp)
    if feed_config(stage.params).source == "live":
        record(stage, config, plan, keep=keep)
        return
    print(
        f"harvest: {config.n_rows:,} rows of {source.d_mlp} from {plan.n_contexts:,} of {split.n_contexts:,} train contexts; "
        f"{plan.layout.n_bytes / 2**30:.2f} GiB before compression, {plan.peak_bytes / 2**30:.2f} GiB of disk and "
        f"{plan.memory_bytes / 2**30:.2f} GiB of memory (beside the transformer) at the peak"
    )
    run = stage.run("activations", config, id=stage.transformer_id, parents=(stage.tokens, stage.transformer))
    url = stage.activations_url
    pushing = url is not None and stands(stage.activations, run)  # killed while it was pushed
    made = share is None and (pushing or is_made(stage.activations, run))
    if not made:
        seconds = seconds_needed(source, split, plan) / (share.n if share else 1)
        print(f"harvest: about {seconds / 60:.1f} min for all of it, by the speed of its first batches", flush=True)
    whole = made or harvest(source, split, tokens.bos, config, stage.activations, run, share=share, keep=keep)
    if made:
        sweep_left_over(stage.activations)
        print(f"harvest: {stage.activations} is that store already; remove it to make it again")
    if not whole:
        print("harvest: this share is done, others are not; the store is committed by a run without --shard")
    elif url and share is None:
        done = push(stage.activations, url, replace=True)
        print(f"harvest: {url} is whole; {done.n_sent:,} of {done.n_files:,} files sent, the others were there")


def record(stage: Stage, config: HarvestConfig, plan: Plan, *, keep: bool) -> None:
    """In the place of a store what a live feed is made from: enough for DVC to know when training has to run again."""
    unfinished = artefact.partial_of(artefact.real(stage.activations))
    if keep and unfinished.exists():
        raise StoreError(f"{unfinished} holds unfinished work; finish it (train.source: store), or run once without --keep")
    run = stage.run(LIVE, config, id=stage.transformer_id, parents=(stage.tokens, stage.transformer), n_contexts=plan.n_contexts)
    abandon(stage.activations)
    with artefact.writing(stage.activations, run, over=("activations",)):
        print(f"harvest: nothing is stored, train.source is live; {config.n_rows:,} rows of {plan.layout.d_mlp} an epoch")


def is_made(store: Path, run: Run) -> bool:
    """Whether nothing is to be done: `store` was made from the same, by the same committed code, and no file is damaged.

    DVC leaves the store in its place (`persist`), so a stage that it was told to run again, or forgot that it ran, finds it."""
    is_revision = re.fullmatch(r"[0-9a-f]{40}", run.code) is not None
    return is_revision and stands(store, run) and not verify(store)


if __name__ == "__main__":
    parser = stage_parser("harvest", __doc__)
    parser.add_argument("--shard", metavar="I/N", type=Share.parse, default=Share.of_environment(), help="this process's share")
    parser.add_argument("--keep", action="store_true", help="refuse, rather than discard, unfinished work with other params")
    given = parser.parse_args()
    # The store has locks of its own, for several shares at once.
    run_stage("harvest", functools.partial(main, share=given.shard, keep=given.keep), given, alone=False, goes_on=True)
