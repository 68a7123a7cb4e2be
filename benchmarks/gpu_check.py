"""The first minutes on a GPU: `make gpu-check`, or `python -m benchmarks.gpu_check --device cuda:1`.

What the card is; the start-up check of every path beside float64, at production's tiles, for both kinds of recipe; a training
stopped and resumed; one on live rows; one on `cuda:1`, where there are two; and 2,000 steps at A/1's shape beside eager bfloat16
and the products that a step cannot do without. Prints a record to paste into docs/gpu.md ("Cards seen"), and ends with 1 where
something was wrong.
"""

import argparse
import dataclasses
import os
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import gpu_step
from sae import artefact
from sae.device import to_device
from sae.errors import ConfigError
from sae.harvest import HarvestConfig
from sae.kernels import choice, triton_door
from sae.kernels.gpu_check import N_FEATURES, N_ROWS, TOLERANCES, Asked, verdict
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.triton_buffers import Tuning
from sae.live.rows import LiveRows
from sae.provenance import Run
from sae.source.transformer import TransformerSource, build_native, site_of
from sae.source.transformer_config import TransformerConfig, fields_to_train
from sae.storage.tokens import SPLITS, TokenStore, write_tokens
from sae.training.config import TrainConfig
from sae.training.fit import Trained, fit
from sae.training.roofline import encoder_rows_per_second

RECIPES = {
    "unit norm, tied bias": (Objective(), UpdateRule()),
    "weighted L1, clipped": (Objective(tied_bias=False, weighted_l1=True), UpdateRule(unit_norm=False, max_gradient_norm=1.0)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of it all; those of a test are smaller."""

    shape: tuple[int, int, int, int] = (512, 4096, 8192, 20)
    """d_mlp, features, rows and L0 of A/1."""
    rounds: int = 10
    steps: int = 200
    """Of ours in a round; eager steps are a tenth."""
    examined: tuple[int, int] = (N_ROWS, N_FEATURES)
    """Rows and features of the start-up check."""
    tuning: Tuning = dataclasses.field(default_factory=Tuning)
    n_rows: int = 65_536
    """Of the trainings' data."""
    n_features: int = 1024
    batch_size: int = 2048
    n_steps: int = 60
    context_length: int = 128
    n_vocab: int = 4096
    live_rows: int = 32_768


class Line(NamedTuple):
    """One line of the record."""

    what: str
    found: str
    right: bool = True


class StopsAt:
    """An observer that asks the training to stop after so many steps, as a SIGTERM does."""

    def __init__(self, n_steps: int):
        self.left = n_steps

    def advance(self, n_steps: int) -> None:
        self.left -= n_steps
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)

    def record(self, step: int, values: dict[str, Any]) -> None: ...

    def event(self, step: int, name: str, values: dict[str, Any]) -> None: ...

    def close(self) -> None: ...

    def state(self) -> None: ...

    def start(self, state: Any) -> None: ...


def card(device: torch.device, settings: Settings) -> Iterator[Line]:
    """What is there, and whether the kernels are taken at all."""
    properties = torch.cuda.get_device_properties(device)
    major, minor = torch.cuda.get_device_capability(device)
    free, total = torch.cuda.mem_get_info(device)
    shared = getattr(properties, "shared_memory_per_block_optin", 0)
    yield Line(
        "card",
        f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}, {properties.multi_processor_count} "
        f"multiprocessors, {total / 1e9:.1f} GB ({free / 1e9:.1f} free), {shared // 1024} KB shared memory a block",
    )
    triton = triton_door.triton.__version__ if triton_door.AVAILABLE else "none"
    yield Line("software", f"torch {torch.__version__}, CUDA {torch.version.cuda}, Triton {triton}")
    reason = choice.unfit(device, settings.shape[0])
    yield Line("kernels", "taken where their check passes" if reason is None else f"not used: {reason}")


def start_up(device: torch.device, settings: Settings) -> Iterator[Line]:
    """The check that each training does, with all of its differences. The first compiles."""
    if choice.unfit(device, settings.shape[0]) is not None:
        return
    n_rows, n_features = settings.examined
    for name, (objective, rule) in RECIPES.items():
        started = time.perf_counter()
        wrong, found = verdict(
            Asked(
                device=str(device),
                d_mlp=settings.shape[0],
                objective=objective,
                rule=rule,
                n_rows=n_rows,
                n_features=n_features,
                tuning=settings.tuning,
            )
        )
        seconds = time.perf_counter() - started
        told = "; ".join(f"{path}: {_worst(differences)}" for path, differences in found.items())
        verb = "right, same bits with a graph and without, NaN refused" if wrong is None else f"WRONG: {wrong}"
        yield Line(f"check, {name}", f"{verb}; {told}; {seconds:.0f} s", wrong is None)


def _worst(differences: dict[str, float]) -> str:
    """The field that is nearest to what is tolerated."""
    share = {name: value / TOLERANCES[name] if TOLERANCES[name] else float(value > 0) for name, value in differences.items()}
    name = max(share, key=lambda name: share[name])
    return f"{name} {differences[name]:.1e} of at most {TOLERANCES[name]:g}"


def config(settings: Settings, **changes: Any) -> TrainConfig:
    sizes = {"n_features": settings.n_features, "batch_size": settings.batch_size, "n_steps": settings.n_steps}
    few = {"log_every": max(1, settings.n_steps // 6), "resample_inputs": 2 * settings.batch_size, "target_l0": 8.0}
    return TrainConfig(**(sizes | few | changes))


def data(settings: Settings) -> torch.Tensor:
    return torch.randn(settings.n_rows, settings.shape[0], generator=torch.Generator().manual_seed(0))


def same(first: Trained, second: Trained) -> bool:
    """Whether two trainings came to the same bits."""
    states = first.dictionary.state_dict(), second.dictionary.state_dict()
    equal = all(torch.equal(value.cpu(), states[1][name].cpu()) for name, value in states[0].items())
    return equal and first.history == second.history


@contextmanager
def told() -> Iterator[list[str]]:
    """The warnings of a training that a check is about: of the engine that was taken, and of a graph that could not be made."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += [str(each.message) for each in caught if issubclass(each.category, UserWarning)]


def resumed(device: torch.device, settings: Settings) -> Iterator[Line]:
    """A training stopped in its middle goes on to the bits of one that was not."""
    rows, configs, name = data(settings), [config(settings)], str(device)
    with tempfile.TemporaryDirectory() as folder, told() as messages:
        (straight,) = fit(rows, configs, device=name)
        try:
            fit(rows, configs, device=name, checkpoints=folder, observers=[[StopsAt(settings.n_steps // 2)]])
            stopped = False
        except SystemExit:
            stopped = True
        (after,) = fit(rows, configs, device=name, checkpoints=folder)
    right = stopped and same(straight, after)
    yield Line("stopped and resumed", _verdict(right, messages), right)


def live(device: torch.device, settings: Settings) -> Iterator[Line]:
    """A training on rows that a transformer makes meanwhile, twice."""
    shape = TransformerConfig(d_mlp=settings.shape[0])
    bridge = build_native(fields_to_train(shape, settings.n_vocab, settings.context_length), seed=0)
    source = TransformerSource(bridge, site_of(shape), device)
    per_context = settings.context_length // 2
    plan = HarvestConfig(n_rows=settings.live_rows, positions_per_context=per_context)
    with tempfile.TemporaryDirectory() as folder, told() as messages:
        tokens = symbols(Path(folder) / "tokens", settings)
        buffer = max(settings.live_rows // 2, 8 * plan.batch_contexts * per_context)
        feeds = [LiveRows(source, tokens.split("train"), tokens.bos, plan, buffer_rows=buffer) for _ in range(2)]
        first, second = (fit(feed, [config(settings)], device=str(device))[0] for feed in feeds)
    right = same(first, second) and not any("graph" in message for message in messages)
    yield Line("live rows, twice", _verdict(right, messages), right)


def symbols(path: Path, settings: Settings) -> TokenStore:
    """Contexts of random tokens, as many as the live rows need and a few to be held out."""
    chance = np.random.default_rng(0)
    n_contexts = 2 * settings.live_rows // (settings.context_length // 2)
    shape = n_contexts, settings.context_length
    splits = {name: (chance.integers(0, settings.n_vocab, shape), np.zeros(shape, np.int32)) for name in SPLITS}
    with artefact.writing(path, Run(kind="tokens")) as draft:
        write_tokens(draft.path, splits, np.zeros(1, np.int64), ["random"], [b"?"] * settings.n_vocab, None)
    return TokenStore.open(path)


def second(device: torch.device, settings: Settings) -> Iterator[Line]:
    """A training on another card than the current one."""
    if torch.cuda.device_count() < 2:
        yield Line("cuda:1", "there is one card")
        return
    rows, configs = data(settings), [config(settings)]
    with told() as messages:
        here, there = (fit(rows, configs, device=name)[0] for name in ("cuda:0", "cuda:1"))
    alike = torch.cuda.get_device_name(0) == torch.cuda.get_device_name(1)
    right = same(here, there) or not alike
    yield Line("cuda:1", _verdict(right, messages) + ("" if alike else " (another kind of card: bits may differ)"), right)


def _verdict(right: bool, messages: Sequence[str]) -> str:
    return "; ".join(["same bits" if right else "OTHER BITS", *dict.fromkeys(messages)])


def speed(device: torch.device, settings: Settings) -> Iterator[Line]:
    """Milliseconds of a step at A/1's shape: medians over rounds, in turn; and of what it cannot be faster than."""
    d_mlp, n_features, n_rows, l0 = settings.shape
    weights, x = gpu_step.problem(d_mlp, n_features, n_rows, l0, device)
    fits = choice.unfit(device, d_mlp) is None
    steps = gpu_step.contestants(weights, x, settings.tuning)[0] if fits else gpu_step.eager(weights, x)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for at in range(settings.rounds + 1):  # the first compiles and captures
        for name, step in steps.items():
            n = settings.steps if name == "ours" else max(1, settings.steps // 10)
            elapsed = gpu_step.milliseconds(step, n, device)
            if at:
                times[name].append(elapsed)
    product = 1e3 * n_rows / encoder_rows_per_second(n_features, d_mlp, device)
    floor = f"one product of this card's {product:.3f} ms, five {5 * product:.3f} ms"
    of = f"{n_rows} rows, {n_features} features, d_mlp {d_mlp}, L0 {l0:g}, {settings.rounds * settings.steps:,} steps of ours"
    middle = {name: statistics.median(values) for name, values in times.items()}
    told = [f"{name} {middle[name]:.3f} ({min(values):.3f} to {max(values):.3f})" for name, values in times.items()]
    ratio = f"; {middle['eager bf16'] / middle['ours']:.2f} times eager bf16" if fits else ""
    yield Line("ms a step", f"{', '.join(told)}{ratio}; {floor} ({of})")


CHECKS: tuple[Callable[[torch.device, Settings], Iterator[Line]], ...] = (card, start_up, resumed, live, second, speed)


def check(device: torch.device, settings: Settings) -> list[Line]:
    """All lines; what fails is one of them, and the others are still tried."""
    lines: list[Line] = []
    for found in CHECKS:
        print(f"gpu-check: {found.__name__} ...", file=sys.stderr, flush=True)
        try:
            lines += found(device, settings)
        except Exception as error:  # whatever a driver or a compiler raises
            reason = next(iter(str(error).strip().splitlines()), "")
            lines.append(Line(found.__name__, f"FAILED: {type(error).__name__}: {reason}", False))
    return lines


def record(lines: Sequence[Line]) -> str:
    """A table in Markdown."""
    rows = [f"| {line.what} | {line.found.replace('|', '/')} |" for line in lines]
    return "\n".join([f"| {date.today().isoformat()} | `make gpu-check` |", "|---|---|", *rows])


def main(arguments: Sequence[str] | None = None, settings: Settings | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cuda:N")
    given = parser.parse_args(arguments)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as in every stage: the same bits twice
    try:
        device = to_device(given.device)
        if device.type != "cuda":
            raise ConfigError(f"device '{given.device}' is no GPU")
    except ConfigError as error:
        print(f"gpu-check: a GPU is needed: {error}", file=sys.stderr)
        return error.exit_code
    lines = check(device, settings or Settings())
    print(record(lines))
    return 0 if all(line.right for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
