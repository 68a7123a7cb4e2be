"""Stage `train`: data/<letter>/activations -> data/<letter>/<number>/dictionary."""

import dataclasses
from contextlib import ExitStack

from pipelines.common import Stage, run_stage
from sae import artefact
from sae.dictionary.disk import write_dictionary
from sae.storage.activations import ActivationStore
from sae.training.observers import History, JsonLog, Observer, Progress, WandbConfig, WandbLog
from sae.training.trainer import TrainConfig, Trainer, input_scale


def main(stage: Stage) -> None:
    config, wandb = stage.section("train", TrainConfig), stage.section("wandb", WandbConfig)
    store = ActivationStore.open(stage.activations)
    scale = input_scale(store.mean_square_norm, store.d_mlp)
    batches = store.batches(config.batch_size, seed=config.seed)
    run = stage.run("dictionary", config, id=stage.dictionary_id, parents=(stage.activations,))
    history = History()
    log = stage.logs / f"{stage.dictionary_id.replace('/', '-')}-train.jsonl"
    with artefact.writing(stage.dictionary, run) as draft, ExitStack() as closing:
        observers: list[Observer] = [history, JsonLog(log), Progress("train", config.n_steps)]
        if wandb.mode != "disabled":
            observers.append(mirror := WandbLog(wandb, stage.dictionary_id, dataclasses.asdict(config), log=log))
            print(f"train: W&B run at {mirror.where}")
        for observer in observers:
            closing.callback(observer.close)
        trainer = Trainer(config, batches, scale=scale, device=stage.device, observers=observers)
        dictionary = trainer.train()
        write_dictionary(dictionary, draft.path)
        (draft.path / "history.jsonl").write_text(history.to_jsonl(), encoding="utf-8")
        last = next(row for row in reversed(history.rows) if "event" not in row)
        epochs = config.n_steps * config.batch_size / len(store)
        draft.run = dataclasses.replace(run, facts={"input_scale": scale, "epochs": epochs, "last_record": last})


if __name__ == "__main__":
    run_stage("train", main)
