"""Stage `sweep`: more dictionaries of the same store, trained in one pass -> data/<letter>/sweep/<name>/dictionary,
and reports/sweep: the last record of each."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.common import Stage, check_name, run_stage
from pipelines.feed import train_params
from pipelines.train import train_stage
from sae import artefact, foreign
from sae.config import build
from sae.errors import StoreError
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
    remove_others(folder, set(configs))
    made = tuple(folder / name.rsplit("/", 1)[1] / "dictionary" for name in table)
    with artefact.writing(stage.reports / "sweep", stage.run("sweep", config, id=stage.transformer_id, parents=made)) as draft:
        write_figures(draft.path, "sweep", table)


def remove_others(folder: Path, ids: set[str]) -> None:
    """Remove the dictionaries of an earlier sweep that are none of this one's `ids`: DVC keeps the whole folder. What else lies
    there stays."""
    for dictionary in sorted(folder.glob("*/dictionary")):
        name = f"{folder.parent.name}/sweep/{dictionary.parent.name}"
        if name in ids:
            continue
        if reason := _not_ours(dictionary, name):
            print(f"sweep: {dictionary} is of no dictionary that is asked for, and was left: {reason}")
            continue
        artefact.discard(dictionary)
        artefact.lock_of(dictionary).unlink(missing_ok=True)
        with suppress(OSError):  # there is something else
            dictionary.parent.rmdir()


def _not_ours(dictionary: Path, name: str) -> str | None:
    """Why this is none that a sweep trained as `name`; None where it is."""
    if dictionary.is_symlink() or dictionary.parent.is_symlink():
        return "it is a link"
    try:
        foreign.refuse(dictionary, ("dictionary",))
        made_as = artefact.read_run(dictionary, "dictionary").id
    except StoreError as error:
        return str(error)
    return None if made_as == name else f"it was not trained by a sweep, but is {made_as or 'nameless'}"


if __name__ == "__main__":
    run_stage("sweep", main, goes_on=True)
