"""How fast tokens become activations at a site: this project's source, a pass written by hand, and transformer_lens's ways.

    python -m benchmarks.harvest_forward                          # the default pipeline's transformer, and gelu-1l's shape
    python -m benchmarks.harvest_forward --shapes default --modes cpu --rounds 7

All in one process, in turn, over the same tokens and the same random weights; before anything is timed, each must give the same
activations. Two measurements: wall time on 2 threads with only quiet repeats kept, and CPU seconds on one pinned thread. How to
read the table: docs/benchmarks.md.
"""

import argparse
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from benchmarks.harness import Repeat, Summary, interleave, provenance, summarise, table, write_record
from benchmarks.peers import ROOT
from benchmarks.quiet import Limits, read_busy_seconds, wait_until_quiet
from sae.errors import ConfigError
from sae.source.fast_site import weights_of
from sae.source.transformer import Site, TransformerSource, build_native

SITE = Site(0, "blocks.0.mlp.hook_post")
SAME = 1e-4
"""Largest difference from transformer_lens's activations, as a fraction of their norm."""
Forward = Callable[[Tensor], Tensor]


class Shape(NamedTuple):
    """A transformer and a batch."""

    fields: dict[str, Any]
    n_contexts: int
    length: int

    @property
    def n_tokens(self) -> int:
        return self.n_contexts * self.length


class Mode(NamedTuple):
    name: str
    threads: int
    cpu: int | None
    """The one that it is pinned to."""
    limits: Limits | None

    def apply(self) -> None:
        """To this process."""
        torch.set_num_threads(self.threads)
        os.sched_setaffinity(0, {self.cpu} if self.cpu is not None else set(range(os.cpu_count() or 1)))


def modes(names: Sequence[str]) -> list[Mode]:
    every = {
        "wall": Mode("2 threads, wall", 2, None, Limits()),
        "cpu": Mode("1 thread pinned, CPU", 1, (os.cpu_count() or 1) - 1, None),
    }
    return [every[name] for name in names]


def shapes() -> dict[str, Shape]:
    """`default` is read from params.yaml. `context-256` is the shape of the first measurements, where the issue's figures are
    from (on another processor, with transformer_lens 3.9). `gelu-1l` is that of NeelNanda/GELU_1L512W_C4_Code, with fewer
    tokens a batch since those who compute logits hold [token, 48262] of them."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    ours = params["transformer"]
    width = {name: ours[name] for name in ("n_layers", "d_model", "d_mlp", "n_heads")}
    length, n_contexts = params["tokens"]["context_length"], params["harvest"]["batch_contexts"]
    rest = {"d_head": ours["d_model"] // ours["n_heads"], "n_ctx": length, "d_vocab": params["tokens"]["n_vocab"]}
    gelu = {"n_layers": 1, "d_model": 512, "d_mlp": 2048, "n_heads": 8, "d_head": 64, "n_ctx": 1024, "d_vocab": 48262}
    longer = {"n_layers": 1, "d_model": 128, "d_mlp": 512, "n_heads": 4, "d_head": 32, "n_ctx": 256, "d_vocab": 8192}
    return {
        "default": Shape({**width, **rest, "act_fn": ours["activation"], "normalization_type": "LN"}, n_contexts, length),
        "context-256": Shape({**longer, "act_fn": "relu", "normalization_type": "LN"}, 32, 256),
        "gelu-1l": Shape({**gelu, "act_fn": "gelu", "normalization_type": "LN"}, 8, 128),
    }


def by_hand(source: TransformerSource) -> Forward:
    """What one would write for this very transformer, of one layer: fused attention, q, k and v in one product, joined once."""
    cfg, w = source.bridge.cfg, {name.removeprefix("layers.0."): value for name, value in weights_of(source.bridge).items()}
    weight, bias = (torch.cat([w[f"attn.{part}.{kind}"] for part in "qkv"]) for kind in ("weight", "bias"))
    activate: Forward = F.relu if cfg.act_fn == "relu" else F.gelu

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (cfg.d_model,), w[f"{name}.weight"], w[f"{name}.bias"], cfg.eps)

    @torch.no_grad()
    def forward(tokens: Tensor) -> Tensor:
        x = F.embedding(tokens, w["tok_embed.weight"]) + w["pos.weight"][: tokens.shape[1]]
        mixed = F.linear(norm(x, "ln1"), weight, bias)
        q, k, v = (part.view(*tokens.shape, cfg.n_heads, cfg.d_head).transpose(1, 2) for part in mixed.chunk(3, dim=-1))
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + F.linear(heads, w["attn.o.weight"], w["attn.o.bias"])
        return activate(F.linear(norm(x, "ln2"), w["mlp.fc_in.weight"], w["mlp.fc_in.bias"]))

    return forward


class _Stop(Exception):  # noqa: N818 - no error: it ends a forward pass
    pass


def stopped_by_a_hook(source: TransformerSource) -> Forward:
    """transformer_lens's own pass as far as the site; its `stop_at_layer` does nothing for the last layer."""

    @torch.no_grad()
    def forward(tokens: Tensor) -> Tensor:
        caught: list[Tensor] = []

        def grab(x: Tensor, hook: object) -> None:
            caught.append(x)
            raise _Stop

        with suppress(_Stop):
            source.bridge.run_with_hooks(tokens, fwd_hooks=[(source.site.hook, grab)], return_type=None)
        return caught[0]

    return forward


def run_with_cache(source: TransformerSource, **options: Any) -> Forward:
    @torch.no_grad()
    def forward(tokens: Tensor) -> Tensor:
        _, cache = source.bridge.run_with_cache(tokens, **options)
        found: Tensor = cache[source.site.hook]
        return found

    return forward


def contestants(source: TransformerSource) -> dict[str, Forward]:
    return {
        "TransformerSource.activations": source.activations,
        "written by hand": by_hand(source),
        "transformer_lens, stopped by a hook": stopped_by_a_hook(source),
        "run_with_cache, names_filter": run_with_cache(source, names_filter=source.site.hook),
        "run_with_cache": run_with_cache(source),
    }


def build(shape: Shape) -> tuple[TransformerSource, Tensor]:
    """A transformer with random weights, biases and gains, and a batch of random tokens."""
    bridge, generator = build_native(shape.fields, seed=0), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return TransformerSource(bridge, SITE), torch.randint(
        bridge.cfg.d_vocab, (shape.n_contexts, shape.length), generator=generator
    )


def check_same(forwards: dict[str, Forward], tokens: Tensor) -> dict[str, float]:
    """Each one's largest difference from transformer_lens's, relative. Raises `ConfigError` where it is above `SAME`."""
    expected = forwards["run_with_cache"](tokens)
    found = {name: float((forward(tokens) - expected).norm() / expected.norm()) for name, forward in forwards.items()}
    for name, difference in found.items():
        if not difference <= SAME:
            raise ConfigError(f"{name} computes something else: {difference:.3g} of the norm away from run_with_cache")
    return found


def timed(forward: Forward, tokens: Tensor, steps: int, limits: Limits | None) -> Repeat:
    """One repeat of `steps` passes, which is quiet if `limits` say so of before and during; without limits, always."""
    before = limits is None or wait_until_quiet(limits)
    busy, cpu, wall = read_busy_seconds(), time.process_time(), time.perf_counter()
    for _ in range(steps):
        forward(tokens)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    others = max(0.0, read_busy_seconds() - busy - cpu)
    quiet = limits is None or (before and limits.quiet_during(others, wall))
    return Repeat(steps=steps, wall_s=wall, cpu_s=cpu, others_s=others, quiet=quiet)


def measure(mode: Mode, forwards: dict[str, Forward], tokens: Tensor, given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Repeats and summary of each contestant in `mode`."""
    mode.apply()
    steps = {}
    for name, forward in forwards.items():
        timed(forward, tokens, 1, None)  # the first pass allocates and faults pages in
        steps[name] = max(1, math.ceil(given.seconds / timed(forward, tokens, 1, None).wall_s))
    calls = {
        name: lambda forward=forward, n=steps[name]: timed(forward, tokens, n, mode.limits) for name, forward in forwards.items()
    }
    found: dict[str, dict[str, Any]] = {}
    for name, repeats in interleave(calls, rounds=given.rounds, attempts=given.attempts).items():
        summary = summarise(repeats, lambda repeat: repeat.wall_s if mode.limits else repeat.cpu_s, given.rounds)
        found[name] = {"repeats": [asdict(each) for each in repeats], "summary": summary._asdict()}
    return found


def render(mode: Mode, found: dict[str, dict[str, Any]], shape: Shape) -> str:
    ours = next(iter(found.values()))["summary"]["median"]
    rows = []
    for name, each in found.items():
        summary = Summary(**each["summary"])
        rows.append(
            [
                name,
                f"{summary.median:.1f}",
                f"{summary.low:.1f}-{summary.high:.1f}",
                f"{shape.n_tokens / summary.median:.1f}k",
                f"{summary.median / ours:.2f}",
                f"{each['difference']:.0e}",
                f"{summary.n_kept} of {summary.n_tried}" + ("" if summary.quiet else ", NOT QUIET"),
            ]
        )
    header = ["", "ms a batch", "quartiles", "tokens/s", "ours faster by", "difference", "repeats kept"]
    return f"**{mode.name}**\n\n{table(header, rows)}"


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Print the tables as they come; the record of all of it."""
    record: dict[str, Any] = {"torch": torch.__version__, **provenance(), "results": []}
    for name in given.shapes:
        shape = shapes()[name]
        source, tokens = build(shape)
        forwards = contestants(source)
        differences = check_same(forwards, tokens)
        print(f"\n## {name}: {shape.fields}, {shape.n_contexts} contexts of {shape.length}\n")
        for mode in modes(given.modes):
            found = measure(mode, forwards, tokens, given)
            found = {key: {**value, "difference": differences[key]} for key, value in found.items()}
            record["results"].append({"shape": name, "mode": mode.name, "contestants": found})
            print(render(mode, found, shape), flush=True)
            print()
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(shapes()), choices=list(shapes()))
    parser.add_argument("--modes", nargs="+", default=["wall", "cpu"], choices=["wall", "cpu"])
    parser.add_argument("--rounds", type=int, default=5, help="quiet repeats wanted of each")
    parser.add_argument("--attempts", type=int, default=5, help="give up after this many times as many repeats")
    parser.add_argument("--seconds", type=float, default=0.4, help="of passes in one repeat, at least one")
    parser.add_argument("--json", type=Path, help="write all repeats, versions and the machine here")
    given = parser.parse_args()
    record = run(given)
    if given.json is not None:
        write_record(given.json, record)


if __name__ == "__main__":
    main()
