"""Stage `sweep`: more dictionaries of the same store, trained in one pass -> data/<letter>/sweep/<name>/dictionary."""

import json
from dataclasses import dataclass, field
from typing import Any

from pipelines.common import Stage, check_name, run_stage
from pipelines.feed import train_params
from pipelines.train import train_stage
from sae import artefact
from sae.config import build
from sae.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Section `sweep`."""

    dictionaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name of each dictionary (`sae.load("A/sweep/<name>")`) to what it changes of section `train`, but for batch_size and
    data_seed."""

    def __post_init__(self) -> None:
        for name in self.dictionaries:
            check_name(name, "'dictionaries' has")


def main(stage: Stage) -> None:
    changes = stage.section("sweep", SweepConfig).dictionaries
    common = train_params(stage.params)["train"]
    configs = {
        f"{stage.transformer_id}/sweep/{name}": build(TrainConfig, {**common, **change}, f"sweep.{name}")
        for name, change in changes.items()
    }
    folder = stage.transformer.parent / "sweep"
    folder.mkdir(parents=True, exist_ok=True)
    table = {}
    if configs:
        targets = {name: folder / name.rsplit("/", 1)[1] / "dictionary" for name in configs}
        checkpoints = stage.transformer.parent / "sweep-checkpoints"
        trained = train_stage(stage, configs, targets, checkpoints, label="sweep")
        for name, one in trained.items():
            assert one.dictionary.run is not None, "fit sets it"
            table[name] = one.dictionary.run.facts["last_record"]
    artefact.write_text(stage.reports / "sweep.json", json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    run_stage("sweep", main, goes_on=True)
