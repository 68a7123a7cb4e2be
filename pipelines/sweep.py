"""Stage `sweep`: more dictionaries of the same store, trained in one pass -> data/<letter>/sweep/<name>/dictionary,
and reports/sweep: the last record of each."""

from dataclasses import dataclass, field
from typing import Any

from pipelines.common import Stage, check_name, run_stage
from pipelines.feed import train_params
from pipelines.train import train_stage
from sae import artefact
from sae.config import build
from sae.reports import write_figures
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
    config = stage.section("sweep", SweepConfig)
    common = train_params(stage.params)["train"]
    configs = {
        f"{stage.transformer_id}/sweep/{name}": build(TrainConfig, {**common, **change}, f"sweep.{name}")
        for name, change in config.dictionaries.items()
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
    made = tuple(folder / name.rsplit("/", 1)[1] / "dictionary" for name in table)
    with artefact.writing(stage.reports / "sweep", stage.run("sweep", config, id=stage.transformer_id, parents=made)) as draft:
        write_figures(draft.path, "sweep", table)


if __name__ == "__main__":
    run_stage("sweep", main, goes_on=True)
