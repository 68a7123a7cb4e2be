"""Step times of the GPU engine, against eager torch and the roofline, and the whole A/1 run from a ring in GPU memory.

    python benchmarks/gpu_step.py                      # all shapes of the roofline, then the A/1 run's first 20,000 steps
    python benchmarks/gpu_step.py --steps 1000000      # the whole A/1 run, 8.19e9 activations
    python benchmarks/gpu_step.py --tiny               # runs through in Triton's interpreter; its times mean nothing

Every shape is timed at learning rate 0, so that its L0 stays: random directions, and one bias that lets the asked number of
features through. Milliseconds are medians over rounds of CUDA events, engines interleaved. The roofline is that of an H200:
790 TFLOP/s in bfloat16 and 4.3 TB/s (docs/gpu.md). The last line is the record, as JSON.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from sae.kernels import triton_door
from sae.kernels.cuda import CudaEngine
from sae.kernels.dense import DenseEngine
from sae.kernels.gradients import Weights
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.state import State
from sae.kernels.triton_buffers import Tuning, bytes_needed

FLOPS, BYTES = 790e12, 4.3e12
SHAPES = [  # d_mlp, features, rows, L0
    (512, 4096, 8192, 20), (512, 4096, 8192, 60), (512, 4096, 32768, 20), (512, 16384, 8192, 20), (512, 131072, 8192, 20),
    (512, 131072, 8192, 60), (2048, 16384, 8192, 20), (2048, 65536, 8192, 60), (2048, 131072, 8192, 20), (2048, 131072, 8192, 60),
]  # fmt: skip
TINY_SHAPES = [(24, 36, 32, 4)]
TINY = Tuning(rows=16, features=16, parts=2, columns=16, depth=16, at_once=8, feature_programs=4, dense_programs=2)
TARGET_A1, STRETCH_A1 = 10.0, 6.0
"""Minutes for 8.19e9 activations."""


def problem(d_mlp: int, n_features: int, n_rows: int, l0: float, device: torch.device) -> tuple[Weights, torch.Tensor]:
    """Random unit directions and rows on which about `l0` features are active."""
    generator = torch.Generator().manual_seed(0)  # the CPU's: the same problem on every card

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    W_dec = torch.nn.functional.normalize(normal(n_features, d_mlp), dim=1)
    x = normal(n_rows, d_mlp)
    threshold = 2**0.5 * torch.erfinv(torch.tensor(1 - 2 * l0 / n_features, dtype=torch.float64))
    b_enc = torch.full((n_features,), -float(threshold), device=device)
    return Weights(W_dec.clone(), b_enc, W_dec, torch.zeros(d_mlp, device=device)), x.bfloat16()


def copied(weights: Weights) -> State:
    return State.start(Weights(*(weight.clone() for weight in weights)))


def milliseconds(step: Callable[[], Any], n: int, device: torch.device) -> float:
    """Mean of `n` steps in a row."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(n):
            step()
        return (time.perf_counter() - start) * 1e3 / n
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(n):
        step()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / n


def eager(weights: Weights, x: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Steps of plain torch at λ = 1 and learning rate 0, by name. They wait for the device once a step (`DenseEngine`)."""
    plain, rows = DenseEngine(copied(weights), Objective(), UpdateRule()), x.float()

    def autocast() -> Any:
        with torch.autocast(x.device.type, torch.bfloat16):
            return plain.step(rows, 1.0, 0.0)

    return {"eager bf16": autocast, "eager fp32": lambda: plain.step(rows, 1.0, 0.0)}


def contestants(weights: Weights, x: torch.Tensor, tuning: Tuning) -> tuple[dict[str, Callable[[], Any]], CudaEngine]:
    """Ours on the path of its own choice and on the dense one, and those of plain torch."""
    recipe = Objective(), UpdateRule()
    ours = CudaEngine(copied(weights), *recipe, tuning=tuning)
    only_dense = CudaEngine(copied(weights), *recipe, path="dense", tuning=tuning)
    steps = {"ours": lambda: ours.step(x, 1.0, 0.0), "ours, dense": lambda: only_dense.step(x, 1.0, 0.0)}
    return steps | eager(weights, x), ours


def time_shape(shape: tuple[int, int, int, int], rounds: int, n: int, tuning: Tuning, device: torch.device) -> dict[str, Any]:
    """One row of the table."""
    d_mlp, n_features, n_rows, l0 = shape
    weights, x = problem(d_mlp, n_features, n_rows, l0, device)
    steps, ours = contestants(weights, x, tuning)
    active = float(steps["ours"]().n_fired.sum())
    times: dict[str, list[float]] = {name: [] for name in steps}
    for at in range(rounds + 1):  # the first round compiles and captures
        for name, step in steps.items():
            elapsed = milliseconds(step, n, device)
            if at:
                times[name].append(elapsed)
    floor = 5 * 2 * n_rows * n_features * d_mlp / FLOPS * 1e3
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "d_mlp": d_mlp, "n_features": n_features, "n_rows": n_rows, "l0": active / n_rows,
        "sparse": active <= ours.capacity(n_rows), "ms": medians,
        "floor_ms": floor, "encode_floor_ms": floor / 5, "million_a_second": n_rows / medians["ours"] / 1e3,
        "bytes_needed": bytes_needed(n_rows, n_features, d_mlp, dtype=x.dtype, tuning=tuning),
    }  # fmt: skip


def run_a1(steps: int, tuning: Tuning, device: torch.device, *, tiny: bool) -> dict[str, Any]:
    """The A/1 run from a ring of synthetic activations: a fresh random batch from the ring at every step."""
    d_mlp, n_features, n_rows, ring_rows = (24, 36, 32, 256) if tiny else (512, 4096, 8192, 2**23)
    generator = torch.Generator(device).manual_seed(1)
    weights, _ = problem(d_mlp, n_features, n_rows, n_features / 2, device)
    ring = torch.empty(ring_rows, d_mlp, dtype=torch.bfloat16, device=device)
    for block in ring.split(2**16):
        codes = torch.rand(len(block), n_features, generator=generator, device=device).sub_(0.995).clamp_min_(0).mul_(400)
        block.copy_(codes @ weights.W_dec)
    engine = CudaEngine(copied(weights), Objective(), UpdateRule(), tuning=tuning)
    fired = torch.zeros(n_features, dtype=torch.int64, device=device)
    start = time.perf_counter()
    for _ in range(steps):
        at = torch.randint(ring_rows, (n_rows,), generator=generator, device=device)
        result = engine.step(ring[at], 0.3, 3e-4)
        fired = result.n_fired
    l0 = float(fired.sum()) / n_rows
    minutes = (time.perf_counter() - start) / 60
    whole = minutes * 8.19e9 / (steps * n_rows)
    return {
        "steps": steps, "minutes": minutes, "minutes_for_8.19e9": whole, "last_l0": l0,
        "target": TARGET_A1, "stretch": STRETCH_A1, "last_squared_error": float(result.squared_error),
    }  # fmt: skip


def versions(device: torch.device) -> dict[str, str | None]:
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.processor()} (Triton's interpreter)"
    version = triton_door.triton.__version__
    return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "triton": version}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000, help="steps of the A/1 run; 1,000,000 is the whole of it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=20, help="steps timed together in one round")
    parser.add_argument("--tiny", action="store_true", help="one small shape and a few steps, wherever Triton runs")
    options = parser.parse_args()
    triton_door.require()
    device = torch.device("cuda" if torch.cuda.is_available() and not triton_door.RUNS_INTERPRETED else "cpu")
    if device.type == "cpu" and not options.tiny:
        parser.error("there is no GPU here; --tiny runs one small shape in Triton's interpreter")
    tuning = TINY if options.tiny else Tuning()
    rounds, repeats, steps = (1, 1, 2) if options.tiny else (options.rounds, options.repeats, options.steps)
    rows = []
    print(f"{'d_mlp':>6} {'features':>9} {'rows':>6} {'L0':>6} {'path':>7} {'ours':>9} {'dense':>9} {'bf16':>9} {'fp32':>9} "
          f"{'5 products':>10} {'encode':>8} {'M/s':>7} {'GB':>6}")  # fmt: skip
    for shape in TINY_SHAPES if options.tiny else SHAPES:
        row = time_shape(shape, rounds, repeats, tuning, device)
        rows.append(row)
        times = " ".join(f"{value:9.3f}" for value in row["ms"].values())
        path = "sparse" if row["sparse"] else "dense"
        print(f"{row['d_mlp']:6} {row['n_features']:9} {row['n_rows']:6} {row['l0']:6.1f} {path:>7} {times} "
              f"{row['floor_ms']:10.3f} {row['encode_floor_ms']:8.3f} {row['million_a_second']:7.3f} "
              f"{row['bytes_needed'] / 1e9:6.2f}", flush=True)  # fmt: skip
    a1 = run_a1(steps, tuning, device, tiny=options.tiny)
    print(f"A/1: {a1['steps']} steps in {a1['minutes']:.2f} min; at that rate 8.19e9 activations take "
          f"{a1['minutes_for_8.19e9']:.2f} min (target {TARGET_A1:g}, stretch {STRETCH_A1:g})")  # fmt: skip
    print(json.dumps({"versions": versions(device), "steps": rows, "a1": a1}))


if __name__ == "__main__":
    main()
