"""Whether the GPU engine computes what it should on the GPU at hand, found out before a training relies on it.

`verdict` asks a process of its own (this module, run): after an illegal access nothing more can be done on a GPU by the process
that made it, which would be the training's. That process takes some steps of a small problem on each path, at the tile sizes of
production, beside a reference in float64 (`rounded`), and compares everything that a step reports and changes.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae.kernels.cuda import CudaEngine
from sae.kernels.dense import gradient_norm, update
from sae.kernels.gradients import StepResult, Weights
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.rounded import rounded_step
from sae.kernels.state import State
from sae.kernels.triton_buffers import SPARSE_BELOW, Tuning
from sae.kernels.triton_buffers import Path as Products

COMMAND = [sys.executable, "-P", "-m", "sae.kernels.gpu_check"]
SECONDS = 900
"""Until the process is given up. The kernels are compiled in it, and then lie in Triton's cache for the training's own."""
N_ROWS, N_FEATURES = 300, 900
"""No multiples of a tile's rows or features; three tiles of rows and more of features."""
PATHS: dict[str, tuple[Products, float]] = {"sparse": ("auto", 0.6), "overflow": ("auto", 2.0), "dense": ("dense", 2.0)}
"""Each path, and the active entries of its problem as a share of what the lists hold."""
STEPS = [(0.7, 1.0), (0.4, 0.5), (0.5, 0.7)]
"""λ and learning rate (over 50 d_mlp) of each step: launched as it is, captured, replayed."""

TOLERANCES = {
    "squared_error": 1e-3,
    "l1": 1e-3,
    "gradient_norm": 2e-3,
    "n_fired": 0.0,
    "finite": 0.0,
    "moments": 5e-3,
    "moves": 0.1,
}
"""Relative differences that rounding explains. A weight moves by its gradient's sign at first, which near zero is rounding's, so
`moves` may differ more; one wrong feature of 900, or one row in 300, exceeds the others."""


class Problem(NamedTuple):
    """Weights, and a batch for each step."""

    weights: Weights
    batches: list[Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be checked."""

    device: str
    d_mlp: int
    objective: Objective
    rule: UpdateRule
    n_rows: int = N_ROWS
    n_features: int = N_FEATURES
    tuning: Tuning = dataclasses.field(default_factory=Tuning)
    sparse_below: float = SPARSE_BELOW

    @classmethod
    def from_json(cls, text: str) -> "Asked":
        fields = json.loads(text)
        rule = {**fields["rule"], "betas": tuple(fields["rule"]["betas"])}
        own = {"objective": Objective(**fields["objective"]), "rule": UpdateRule(**rule), "tuning": Tuning(**fields["tuning"])}
        return cls(**{**fields, **own})


def problem(asked: Asked, active: float) -> Problem:
    """Random directions, and biases with which the share `active` of all entries is active, on some features ten times as often
    as on others."""
    chance = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=chance)

    W_dec = torch.nn.functional.normalize(normal(asked.n_features, asked.d_mlp), dim=1)
    W_enc = torch.nn.functional.normalize(W_dec + 0.1 * normal(asked.n_features, asked.d_mlp) / asked.d_mlp**0.5, dim=1)
    b_dec, b_enc = 0.1 * normal(asked.d_mlp), 0.5 * normal(asked.n_features)
    batches = [normal(asked.n_rows, asked.d_mlp) * (0.5 + torch.rand(asked.n_rows, 1, generator=chance)) for _ in STEPS]
    before = (batches[0] - b_dec) @ W_enc.T + b_enc
    n_active = max(1, round(active * before.numel()))
    b_enc -= before.flatten().topk(n_active).values[-1]
    return Problem(Weights(W_enc, b_enc, W_dec, b_dec), batches)


def engine_for(asked: Asked, path: str, *, graphs: bool = True) -> tuple[CudaEngine, list[Tensor]]:
    """An engine at the problem of `path`, and the batches, on the device."""
    kind, share = PATHS[path]
    weights, batches = problem(asked, share * asked.sparse_below)
    state = State.start(Weights(*(weight.to(asked.device) for weight in weights)))
    options: dict[str, Any] = {"path": kind, "sparse_below": asked.sparse_below, "tuning": asked.tuning, "graphs": graphs}
    engine = CudaEngine(state, asked.objective, asked.rule, **options)
    return engine, [batch.to(asked.device) for batch in batches]


def learning_rate(asked: Asked, factor: float) -> float:
    """So small that a step leaves an entry's path as it is: it moves a pre-activation by a fiftieth at most, or so."""
    return factor / (50 * asked.d_mlp)


def kept(engine: CudaEngine) -> dict[str, Tensor]:
    """The state's tensors, copied to the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in engine.state.tensors().items()}


def differences(asked: Asked, path: str) -> Iterator[dict[str, float]]:
    """Of each step on `path`, how far the engine is from the reference: by field of `StepResult`, by moments and by moves."""
    engine, batches = engine_for(asked, path)
    for (l1, factor), x in zip(STEPS, batches, strict=True):
        rate, before, n_updates = learning_rate(asked, factor), kept(engine), engine.state.n_updates
        result = engine.step(x, l1, rate)
        engine.settle()
        dense = path != "sparse"
        count = int(engine.active_entries(len(x)))
        capacity = engine.capacity(len(x))
        assert (count > capacity) == dense, f"{path}: {count} entries are active for lists of {capacity}"
        weights = Weights(*(before[name] for name in Weights._fields))
        found = rounded_step(weights, x, l1, asked.objective, dense=dense)
        after = State.start(Weights(*(weight.double() for weight in weights)))
        after.load({name: tensor.double() for name, tensor in before.items()}, n_updates)
        norm = gradient_norm(found.step.gradients)
        told = _of_result(result, found.step, found.fewest, found.most, norm)
        update(after, found.step.gradients, rate, asked.rule, norm)
        yield told | _of_state(before, kept(engine), after.tensors())


def _of_result(result: StepResult, exact: Any, fewest: Tensor, most: Tensor, norm: Tensor) -> dict[str, float]:
    n_fired = result.n_fired.cpu()
    pairs = {"squared_error": exact.squared_error, "l1": exact.l1, "gradient_norm": norm}
    told = {name: _relative(getattr(result, name), value) for name, value in pairs.items()}
    outside = (fewest - n_fired).clamp_min(0) + (n_fired - most).clamp_min(0)
    return told | {"n_fired": float(outside.sum()), "finite": float(not bool(result.finite))}


def _of_state(before: dict[str, Tensor], ours: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    moments = [_relative(ours[name], exact[name]) for name in ours if "." in name]
    moves = [_relative(ours[name].double() - before[name], exact[name] - before[name]) for name in ours if "." not in name]
    return {"moments": max(moments), "moves": max(moves)}


def _relative(ours: Tensor, exact: Tensor) -> float:
    """Euclidean; infinite for what is not finite."""
    distance = float((ours.double().cpu() - exact).norm() / exact.norm().clamp_min(1e-300))
    return distance if distance == distance else float("inf")


def repeats(asked: Asked, path: str) -> bool:
    """Whether the steps have the same bits again, launched one by one where they were a graph before."""
    runs = []
    for graphs in (True, False):
        engine, batches = engine_for(asked, path, graphs=graphs)
        results = [engine.step(x, l1, learning_rate(asked, factor)) for (l1, factor), x in zip(STEPS, batches, strict=True)]
        runs.append([*(part.cpu() for result in results for part in result), *kept(engine).values()])
    return all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def refuses(asked: Asked, path: str) -> bool:
    """Whether a batch that holds NaN changes nothing, and says so."""
    engine, batches = engine_for(asked, path)
    l1, factor = STEPS[0]
    engine.step(batches[0], l1, learning_rate(asked, factor))
    before = kept(engine)
    batches[1][7, 3] = float("nan")
    result = engine.step(batches[1], l1, learning_rate(asked, factor))
    engine.settle()
    same = all(torch.equal(before[name], tensor) for name, tensor in kept(engine).items())
    return same and not bool(result.finite) and engine.state.n_updates == 1


def examined(asked: Asked) -> tuple[str | None, dict[str, dict[str, float]]]:
    """What is wrong (None where nothing is), and the largest differences of each path."""
    found: dict[str, dict[str, float]] = {}
    for path in PATHS:
        steps = list(differences(asked, path))
        found[path] = {name: max(step[name] for step in steps) for name in TOLERANCES}
        for name, difference in found[path].items():
            if not difference <= TOLERANCES[name]:
                return f"on the {path} path {name} differs by {difference:.2g} from a reference in float64", found
        if not repeats(asked, path):
            return f"on the {path} path the same steps gave other bits", found
        if not refuses(asked, path):
            return f"on the {path} path a batch with NaN was not refused, or changed something", found
    return None, found


def trouble(asked: Asked) -> str | None:
    """What is wrong with the engine, as found by a process of its own; None where nothing is. Asked once a process."""
    return verdict(asked)[0]


@lru_cache
def verdict(asked: Asked) -> tuple[str | None, dict[str, dict[str, float]]]:
    """`examined` by a process of its own, whatever becomes of it; no differences where it did not come to any."""
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    command = [*COMMAND, json.dumps(dataclasses.asdict(asked))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"its check was not done after {SECONDS} s", {}
    except OSError as error:
        return f"its check could not be started: {error}", {}
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        return f"its check failed: {last}", {}
    wrong, found = json.loads(done.stdout.splitlines()[-1])
    return wrong, found


def main() -> None:
    """The check's process: one argument, `Asked` as JSON; what `examined` gives is the last line of its output, as JSON."""
    print(json.dumps(examined(Asked.from_json(sys.argv[1]))))


if __name__ == "__main__":
    main()
