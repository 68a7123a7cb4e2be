"""Stage `train`: data/<letter>/activations (or, live, the transformer and tokens) -> data/<letter>/<number>/dictionary."""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pipelines.common import Stage, run_stage
from pipelines.feed import feed_config, train_params
from sae import artefact
from sae.config import read_section
from sae.dictionary.disk import write_dictionary
from sae.errors import DivergenceError, StoreError
from sae.harvest import HarvestConfig
from sae.live.rows import BUFFER_ROWS, LiveRows
from sae.storage.activations import ActivationStore
from sae.storage.layout import LIVE
from sae.storage.tokens import TokenStore
from sae.tensors import save_tensors
from sae.training.checkpoint import clear_checkpoints
from sae.training.config import TrainConfig
from sae.training.fit import Trained, fit
from sae.training.observers import JsonLog, Observer, Progress, WandbLog
from sae.training.wandb_config import WandbConfig, as_environment_says


def main(stage: Stage) -> None:
    config = read_section(train_params(stage.params), "train", TrainConfig)
    targets = {stage.dictionary_id: stage.dictionary}
    train_stage(stage, {stage.dictionary_id: config}, targets, stage.dictionary.parent / "checkpoints", label="train")


def train_stage(
    stage: Stage, configs: dict[str, TrainConfig], targets: dict[str, Path], checkpoints: Path, *, label: str
) -> dict[str, Trained]:
    """Train `configs`, by id, in one pass over the stage's rows, going on from the `checkpoints` of a run that was cut off, and
    commit each dictionary to its folder in `targets`. Where some diverge the others are committed before the
    `DivergenceError`, and the checkpoints stay."""
    for target in targets.values():  # before the work
        artefact.refuse_foreign(target, ("dictionary",))
    wandb = as_environment_says(stage.section("wandb", WandbConfig))
    rows = open_rows(stage)
    configs = {name: config.sized(len(rows)) for name, config in configs.items()}
    n_steps = max(config.n_steps or 0 for config in configs.values())
    n_read = max((config.n_steps or 0) * (config.batch_size or 0) for config in configs.values())
    print(f"{label}: {rows_told(rows)}: {n_read / len(rows):.2f} epochs")
    with ExitStack() as closing:
        observers: list[list[Observer]] = []
        for i, (name, config) in enumerate(configs.items()):
            log = stage.logs / f"{name.replace('/', '-')}-train.jsonl"
            told: list[Observer] = [JsonLog(log)]
            if wandb.mode != "disabled":
                told.append(WandbLog(wandb, name, dataclasses.asdict(config), log=log))
            observers.append([*told, Progress(label, n_steps)] if i == 0 else told)
        for observer in [one for several in observers for one in several]:
            closing.callback(observer.close)
        failure: DivergenceError | None = None
        trained: Sequence[Trained | None]
        try:
            trained = fit(
                rows,
                list(configs.values()),
                device=str(stage.device),
                checkpoints=checkpoints,
                observers=observers,
                data=artefact.digest(stage.activations),
                leave_foreign=True,
                names=list(configs),
            )
        except DivergenceError as error:
            failure, trained = error, error.trained
    whole = {name: one for name, one in zip(configs, trained, strict=True) if one is not None}
    for name, one in whole.items():
        commit(stage, name, configs[name], one, targets[name])
    if isinstance(rows, LiveRows) and rows.n_dropped:
        print(f"{label}: {rows.n_dropped} of the rows made by this process were not finite, and were left out")
    if failure is not None:
        raise failure
    clear_checkpoints(checkpoints)
    return whole


def open_rows(stage: Stage) -> ActivationStore | LiveRows:
    """The rows that `train.source` names."""
    feed = feed_config(stage.params)
    if feed.source == "store":
        return ActivationStore.open(stage.activations)
    from sae.source.transformer import load_source  # transformer_lens takes seconds to import, and a store needs none

    run = artefact.read_run(stage.activations, LIVE, made_by="dvc repro harvest")
    for parent in (stage.tokens, stage.transformer):
        if artefact.digest(parent) != run.parents[parent.as_posix()]:
            raise StoreError(f"{parent} is another one than {stage.activations} was planned for; run: dvc repro harvest")
    tokens = TokenStore.open(stage.tokens)
    config, buffer_rows = HarvestConfig(**run.params), feed.live_buffer_rows or BUFFER_ROWS
    source = load_source(stage.transformer, stage.device)
    return LiveRows(source, tokens.split("train"), tokens.bos, config, buffer_rows=buffer_rows)


def rows_told(rows: ActivationStore | LiveRows) -> str:
    """How many there are, in words."""
    if isinstance(rows, ActivationStore):
        return f"{len(rows):,} rows of {rows.d_mlp} in the store"
    size = rows.buffer_rows * rows.d_mlp * rows.plan.layout.on_disk.itemsize / 2**20
    return (
        f"live, {len(rows):,} rows of {rows.d_mlp} an epoch from {rows.plan.n_contexts:,} of {rows.split.n_contexts:,} train "
        f"contexts, {rows.buffer_rows:,} of them in memory ({size:,.0f} MiB)"
    )


def commit(stage: Stage, name: str, config: TrainConfig, trained: Trained, target: Path) -> None:
    """Write one dictionary with its history."""
    assert trained.dictionary.run is not None, "fit sets it"
    run = stage.run("dictionary", config, id=name, parents=(stage.activations,), **trained.dictionary.run.facts)
    with artefact.writing(target, run) as draft:
        write_dictionary(trained.dictionary, draft.path)
        lines = "".join(json.dumps(row) + "\n" for row in trained.history)
        (draft.path / "history.jsonl").write_text(lines, encoding="utf-8")
        save_tensors({"n_fired": trained.firings, "n_rows": trained.firing_rows}, draft.path / "firings.safetensors")


if __name__ == "__main__":
    run_stage("train", main, goes_on=True)
