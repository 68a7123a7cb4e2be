"""Stage `train`: data/<letter>/activations -> data/<letter>/<number>/dictionary."""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pipelines.common import Stage, run_stage
from sae import artefact
from sae.dictionary.disk import write_dictionary
from sae.errors import DivergenceError
from sae.storage.activations import ActivationStore
from sae.tensors import save_tensors
from sae.training.checkpoint import clear_checkpoints
from sae.training.config import TrainConfig
from sae.training.fit import Trained, fit
from sae.training.observers import JsonLog, Observer, Progress, WandbConfig, WandbLog


def main(stage: Stage) -> None:
    config = stage.section("train", TrainConfig)
    targets = {stage.dictionary_id: stage.dictionary}
    train_stage(stage, {stage.dictionary_id: config}, targets, stage.dictionary.parent / "checkpoints", label="train")


def train_stage(
    stage: Stage, configs: dict[str, TrainConfig], targets: dict[str, Path], checkpoints: Path, *, label: str
) -> dict[str, Trained]:
    """Train `configs`, by id, in one pass over the stage's store, going on from the `checkpoints` of a run that was cut off, and
    commit each dictionary to its folder in `targets`. Where some diverge the others are committed before the
    `DivergenceError`, and the checkpoints stay."""
    wandb = stage.section("wandb", WandbConfig)
    store = ActivationStore.open(stage.activations)
    configs = {name: config.sized(len(store)) for name, config in configs.items()}
    n_steps = max(config.n_steps or 0 for config in configs.values())
    with ExitStack() as closing:
        observers: list[list[Observer]] = []
        for i, (name, config) in enumerate(configs.items()):
            log = stage.logs / f"{name.replace('/', '-')}-train.jsonl"
            told: list[Observer] = [JsonLog(log)]
            if wandb.mode != "disabled":
                told.append(mirror := WandbLog(wandb, name, dataclasses.asdict(config), log=log))
                print(f"{label}: W&B run at {mirror.where}")
            observers.append([*told, Progress(label, n_steps)] if i == 0 else told)
        for observer in [one for several in observers for one in several]:
            closing.callback(observer.close)
        failure: DivergenceError | None = None
        trained: Sequence[Trained | None]
        try:
            trained = fit(
                store,
                list(configs.values()),
                device=str(stage.device),
                checkpoints=checkpoints,
                observers=observers,
                data=artefact.digest(stage.activations),
                discard_foreign=True,
                names=list(configs),
            )
        except DivergenceError as error:
            failure, trained = error, error.trained
    whole = {name: one for name, one in zip(configs, trained, strict=True) if one is not None}
    for name, one in whole.items():
        commit(stage, name, configs[name], one, targets[name], len(store))
    if failure is not None:
        raise failure
    clear_checkpoints(checkpoints)
    return whole


def commit(stage: Stage, name: str, config: TrainConfig, trained: Trained, target: Path, n_rows: int) -> None:
    """Write one dictionary with its history."""
    assert trained.dictionary.run is not None, "fit sets it"
    assert config.n_steps is not None, "sized"
    assert config.batch_size is not None, "sized"
    facts = {**trained.dictionary.run.facts, "epochs": config.n_steps * config.batch_size / n_rows}
    run = stage.run("dictionary", config, id=name, parents=(stage.activations,), **facts)
    with artefact.writing(target, run) as draft:
        write_dictionary(trained.dictionary, draft.path)
        lines = "".join(json.dumps(row) + "\n" for row in trained.history)
        (draft.path / "history.jsonl").write_text(lines, encoding="utf-8")
        save_tensors({"n_fired": trained.firings, "n_rows": trained.firing_rows}, draft.path / "firings.safetensors")


if __name__ == "__main__":
    run_stage("train", main)
