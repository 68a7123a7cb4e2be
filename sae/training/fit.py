"""`train` and `train_many`: from rows to dictionaries, resumable, one feed for all."""

import dataclasses
import signal
import sys
from collections.abc import Iterable, Sequence, Sized
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from sae.config import build
from sae.device import to_device, unfilled
from sae.dictionary.base import Dictionary
from sae.errors import ConfigError, DivergenceError, NumericsError
from sae.kernels.choice import refuse_what_has_no_room
from sae.provenance import Run, elsewhere, processor
from sae.training.checkpoint import Checkpoint, Checkpoints
from sae.training.config import TrainConfig, input_scale
from sae.training.data import Feed, IteratorFeed, RowSource, TensorRows
from sae.training.health import Ending, warnings
from sae.training.identity import deciding, identity_of
from sae.training.observers import History, Observer, Progress, wants_bar
from sae.training.sparsity import missed_target
from sae.training.stopping import Stop, Stopped, stop_request
from sae.training.together import Together
from sae.training.trainer import Trainer

CHECKPOINT_SECONDS = 120.0


class Trained(NamedTuple):
    """One dictionary and what its training left."""

    dictionary: Dictionary
    history: list[dict[str, Any]]
    """Records and events, without clocked values."""
    firings: Tensor
    """Rows on which each feature fired in each density window, int64 [window, feature]."""
    firing_rows: Tensor
    """Rows of each density window, int64 [window]."""


def train(
    rows: Tensor | RowSource | Iterable[Tensor],
    *,
    n_features: int = 4096,
    recipe: str = "default",
    l1: float | None = None,
    target_l0: float | None = None,
    lr: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    checkpoints: str | Path | None = None,
    observers: Sequence[Observer] = (),
    progress: bool | None = None,
    **changes: Any,
) -> Dictionary:
    """Train one dictionary on `rows`: a tensor [row, d_mlp], an `ActivationStore` (or any `RowSource`), or an iterator of
    batches.

    `l1` is λ on inputs scaled to a mean ‖x‖² of d_mlp, or `target_l0` the number of features to be active on a row; `lr`,
    `l1`, betas and schedules not given are the recipe's (`sae.training.recipes`), and `changes` may name any other field of
    `TrainConfig`. `steps` defaults to one pass over the rows, at least 1,000; `batch_size` to 8,192, or all rows where there
    are fewer. With `checkpoints` (a folder) a killed run goes on where it was when called again with the same arguments, and
    ends with the same bits. `device` is where it is trained (`auto`: a GPU, where there is one). A bar shows on a terminal and in
    a notebook; `progress` says otherwise. Returns the dictionary for unscaled rows, on the device that the rows were given on (a
    store's: the CPU), its `run` set; what went wrong quietly stands in `run.facts["warnings"]`, and on stderr.

    Raises `ConfigError`, `NumericsError`; after SIGTERM or SIGINT saves a checkpoint and raises `SystemExit` or
    `KeyboardInterrupt`. Without checkpoints SIGINT (Ctrl-C, a notebook's stop) gives back the dictionary so far, marked in its
    warnings, and SIGTERM raises `sae.training.stopping.Stopped`, which has it.
    """
    for ours, name in (("lr", "learning_rate"), ("steps", "n_steps")):
        if name in changes:
            raise ConfigError(f"'{name}' = {changes[name]!r}: give it as {ours}")
    named = {"n_features": n_features, "recipe": recipe, "l1": l1, "target_l0": target_l0, "learning_rate": lr, "seed": seed}
    config = build(TrainConfig, {**named, "n_steps": steps, "batch_size": batch_size, **changes}, "train")
    told = [[*observers]]
    how: dict[str, Any] = {"device": device, "checkpoints": checkpoints, "observers": told, "progress": progress}
    return fit(rows, [config], **how, names=["train"])[0].dictionary


def train_many(
    rows: Tensor | RowSource | Iterable[Tensor],
    configs: Sequence[TrainConfig],
    *,
    device: str = "auto",
    checkpoints: str | Path | None = None,
    observers: Sequence[Sequence[Observer]] | None = None,
    progress: bool | None = None,
) -> list[Dictionary]:
    """Train a dictionary for each of `configs` in one pass over the same batches; each is what it would be if trained alone.

    They may differ in anything but `batch_size` and `data_seed`; a `batch_size` or `n_steps` that is None follows the rows, as
    in `train`. As `train` else; `observers` are a list for each config. Where one diverges the others are trained to their ends;
    then `DivergenceError` names it, and has them: `[one and one.dictionary for one in error.trained]`."""
    trained = fit(rows, configs, device=device, checkpoints=checkpoints, observers=observers, progress=progress)
    return [one.dictionary for one in trained]


def fit(
    rows: Tensor | RowSource | Iterable[Tensor],
    configs: Sequence[TrainConfig],
    *,
    device: str = "auto",
    checkpoints: str | Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    observers: Sequence[Sequence[Observer]] | None = None,
    data: str | None = None,
    leave_foreign: bool = False,
    names: Sequence[str] | None = None,
    progress: bool | None = False,
) -> list[Trained]:
    """As `train_many`, with all that training leaves. `data` names the rows (a digest): checkpoints made from others, or with
    configs that make other dictionaries, are refused, or passed over with `leave_foreign`.
    `checkpoint_seconds` lie between two checkpoints; the last one, at the end, stays: called again, the finished dictionaries
    come back at once. `names` are for messages; by default `configs[0]` and so on."""
    rows, configs = _sized(rows, _checked(configs))
    if observers is not None and len(observers) != len(configs):
        raise ConfigError(f"{len(observers)} lists of observers for {len(configs)} configs: give one for each, empty for none")
    names = [f"configs[{i}]" for i in range(len(configs))] if names is None else names
    shared = {(config.batch_size, config.data_seed) for config in configs}
    if len(shared) != 1:
        raise ConfigError(f"dictionaries trained together share batch_size and data_seed, not {sorted(shared)}; train them apart")
    (batch_size, data_seed) = shared.pop()
    assert batch_size is not None, "sized"
    with ExitStack() as stack:
        stack.enter_context(unfilled())
        saved, start, on = None, None, to_device(device)
        feed = make_feed(rows, batch_size, data_seed, device=on)
        if checkpoints is not None:
            saved = Checkpoints(checkpoints, identity_of(configs, feed, data), deciding)
            stack.enter_context(saved.locked())
            start = saved.latest(leave_foreign=leave_foreign)
        begun_on = start.numbers.get("begun_on", {}) if start else processor()
        if told_of := elsewhere(begun_on, processor()):
            print(f"training goes on; {told_of}", file=sys.stderr, flush=True)
        histories = [History() for _ in configs]
        told = [[history, *more] for history, more in zip(histories, observers or [()] * len(configs), strict=True)]
        if wants_bar(progress, told):
            longest = max(range(len(configs)), key=lambda i: configs[i].n_steps or 0)
            told[longest].append(bar := Progress("train", configs[longest].n_steps or 0))
            stack.callback(bar.close)
        trainers = _trainers(feed, configs, on, told, start)
        request = stack.enter_context(stop_request())
        named = dict(zip(names, trainers, strict=True))
        together = Together(named, feed, saved, request, checkpoint_seconds, resumed=start is not None, begun_on=begun_on)
        n_rows, signum = len(rows) if isinstance(rows, Sized) else None, None
        try:
            together.run()
        except Stop as stop:
            signum = stop.signum
            if saved is not None:
                raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum) from None
        results = _results(names, together, histories, n_rows)
        if signum == signal.SIGTERM:
            raise Stopped(128 + signum, results)
        return results


def _checked(configs: Sequence[TrainConfig]) -> list[TrainConfig]:
    """The configs, with values of the wrong type or kind refused, which the dataclass itself lets pass."""
    configs = configs if isinstance(configs, TrainConfig) else list(configs)
    if isinstance(configs, TrainConfig) or not all(isinstance(config, TrainConfig) for config in configs) or not configs:
        raise ConfigError(f"configs must be a list of at least one TrainConfig, not {configs!r}")
    return [build(TrainConfig, dataclasses.asdict(config), "train") for config in configs]


def make_feed(
    rows: Tensor | RowSource | Iterable[Tensor],
    batch_size: int,
    data_seed: int,
    start: int = 0,
    *,
    device: torch.device | None = None,
) -> Feed | IteratorFeed:
    """Batches of `rows` from batch `start` on, on `device` as `Feed` says."""
    if isinstance(rows, Tensor):
        rows = TensorRows(rows)
    if hasattr(rows, "batches"):
        return Feed(cast(RowSource, rows), batch_size, data_seed, start, device=device)
    feed = IteratorFeed(cast(Iterable[Tensor], rows), start)
    if feed.batch_size != batch_size:
        raise ConfigError(f"'batch_size' = {batch_size}, but the iterator's batches have {feed.batch_size} rows")
    return feed


def _trainers(
    feed: Feed | IteratorFeed,
    configs: Sequence[TrainConfig],
    device: torch.device,
    observers: Sequence[Sequence[Observer]],
    start: Checkpoint | None,
) -> list[Trainer]:
    first = feed.first()
    wanted = [(config.n_features, config.engine) for config in configs]
    refuse_what_has_no_room(wanted, len(first), first.shape[1], device)
    normal = 1.0
    if any(config.settled().normalise_inputs for config in configs) and start is None:
        normal = input_scale(feed.mean_square_norm, first.shape[1])
    trainers = []
    for i, (config, told) in enumerate(zip(configs, observers, strict=True)):
        tensors, saved = start.of(i) if start else ({}, None)
        scale = saved["scale"] if saved else normal if config.settled().normalise_inputs else 1.0
        trainer = Trainer(config, first, scale, device, told)
        if saved is not None:
            trainer.restore(tensors, saved)
        states = {**saved["observers"], "Progress": trainer.n_done} if saved else {}
        for observer in told:  # by kind: a run may go on with W&B switched off
            observer.start(states.get(type(observer).__name__))
        trainers.append(trainer)
    return trainers


def _results(names: Sequence[str], together: Together, histories: Sequence[History], n_rows: int | None) -> list[Trained]:
    """What each has come to. Raises `DivergenceError`, which has the others, where one has failed."""
    results: list[Trained | None] = []
    failures = dict(together.failures)
    for i, (trainer, history) in enumerate(zip(together.trainers, histories, strict=True)):
        try:
            trained = _trained(trainer, history, names[i], n_rows, together.feed.home) if i not in failures else None
            if trained is not None and elsewhere(together.begun_on, processor()):
                assert trained.dictionary.run is not None, "set with it"
                trained.dictionary.run.facts["begun_on"] = together.begun_on
            results.append(trained)
        except NumericsError as error:
            failures[i] = error
            results.append(None)
    if failures:
        told = [f"{names[i]}: {failures[i]}" for i in sorted(failures)] if len(names) > 1 else [str(failures[0])]
        many = f"{len(failures)} of {len(names)} dictionaries failed, the others are whole. " if len(names) > 1 else ""
        raise DivergenceError(many + ". ".join(told), results)
    return [result for result in results if result is not None]


def _trained(trainer: Trainer, history: History, name: str, n_rows: int | None, home: torch.device | None) -> Trained:
    config, dictionary = trainer.config, trainer.dictionary().to(home)
    last: dict[str, Any] = next((row for row in reversed(history.rows) if "event" not in row), {})
    facts: dict[str, Any] = {
        "input_scale": trainer.scale,
        "lambda": float(trainer.l1_at(trainer.n_steps - 1)),
        "last_record": last,
    }
    if n_rows is not None:
        facts["epochs"] = trainer.n_done * trainer.batch_size / n_rows
    if config.target_l0 is not None and last and (told := missed_target(config.target_l0, last["l0"], facts["lambda"])):
        facts["target_l0_missed"] = told
        print(f"{name}: {told}", file=sys.stderr, flush=True)
    facts["warnings"] = warnings(_ending(trainer, last))
    for warning in facts["warnings"]:
        print(f"{name}: warning: {warning}", file=sys.stderr, flush=True)
    params = dataclasses.asdict(config)
    dictionary.run = Run(kind="dictionary", params=params, seed=config.seed, device=str(trainer.device), facts=facts)
    tensors = trainer.tensors()
    return Trained(dictionary, history.rows, tensors["history"].cpu(), torch.tensor(trainer.history_rows))


def _ending(trainer: Trainer, last: dict[str, Any]) -> Ending:
    """How it ended, its features counted over the last whole window of density and the one that was begun."""
    fired, n_rows = trainer.density.n_fired, trainer.density.n_rows
    if trainer.history:
        fired, n_rows = fired + trainer.history[-1], n_rows + trainer.history_rows[-1]
    return Ending(
        last=last,
        n_features=trainer.config.n_features,
        n_silent=int((fired == 0).sum()),
        n_rows=n_rows,
        first_loss=trainer.first_loss,
        learning_rate=trainer.recipe.learning_rate,
        d_mlp=trainer.state.weights.W_enc.shape[1] if trainer.recipe.normalise_inputs else None,
        n_done=trainer.n_done,
        n_steps=trainer.n_steps,
    )


def _sized(
    rows: Tensor | RowSource | Iterable[Tensor], configs: Sequence[TrainConfig]
) -> tuple[Tensor | RowSource | Iterable[Tensor], list[TrainConfig]]:
    """`rows` (an iterator with its first batch put back), and the configs with the steps and batch size that fit them where
    none are given."""
    if isinstance(rows, Tensor) or hasattr(rows, "batches"):
        n_rows = len(rows) if isinstance(rows, Sized) else None
        return rows, [config.sized(n_rows) for config in configs]
    if not isinstance(rows, Iterable) or hasattr(rows, "__array__") or isinstance(rows, (str, bytes, Path, dict)):
        raise ConfigError(
            f"rows must be a tensor [row, d_mlp] (of an array: torch.from_numpy), an ActivationStore (of a path: "
            f"ActivationStore.open) or an iterator of batches, not {type(rows).__name__}"
        )
    batches = iter(rows)
    try:
        first = next(batches)
    except StopIteration:
        raise ConfigError("the iterator has no batches") from None
    n_rows = len(first) if isinstance(first, Tensor) else None  # if not, the feed says so
    given = [config if config.batch_size else dataclasses.replace(config, batch_size=n_rows) for config in configs]
    return chain([first], batches), [config.sized(None) for config in given]
