"""What the feature table costs: ms a feature, and memory beside its budget, on a dictionary as wide as asked for.

`python -m benchmarks.feature_table --n-features 4096` reads data/ (after `make repro`) and trains nothing: of another number of
features than the dictionary there it makes copies, each a little turned and with a bias that lets it fire as often as is asked
for. The peak of memory (VmHWM) is taken less what stood before the pass: libraries, transformer and dictionary.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.memory import forget_peak, status_kilobytes
from sae.dictionary.base import Dictionary
from sae.dictionary.disk import read_dictionary
from sae.features.collect import Making
from sae.features.config import FeaturesConfig
from sae.features.table import write_blocks
from sae.source.site import ActivationSource
from sae.source.transformer import load_source
from sae.storage.tokens import TokenStore, to_tensor


@torch.no_grad()
def widened(dictionary: Dictionary, n_features: int, l0: float, x: Tensor) -> Dictionary:
    """Copies with other directions near by, their biases set on the rows `x` for firings in proportion to rank^-0.7."""
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(n_features) % dictionary.n_features
    W_enc = dictionary.W_enc[index] + 0.3 / dictionary.d_mlp**0.5 * torch.randn(n_features, dictionary.d_mlp, generator=generator)
    frequency = torch.arange(1, n_features + 1).double() ** -0.7
    frequency = (frequency * l0 / frequency.sum()).clamp(max=0.5)
    b_enc = torch.empty(n_features)
    for first in range(0, n_features, 4096):
        part = slice(first, first + 4096)
        pre = (x - dictionary.b_dec) @ W_enc[part].T
        rank = ((1 - frequency[part]) * (len(x) - 1)).long()
        b_enc[part] = -pre.sort(0).values.gather(0, rank[None])[0]
    return type(dictionary)(W_enc, b_enc, dictionary.W_dec[index].clone(), dictionary.b_dec)


@torch.no_grad()
def rows_of(source: ActivationSource, tokens: TokenStore) -> Tensor:
    """Of 16 contexts: their number is what setting the biases takes its time for."""
    return source.activations(to_tensor(tokens.split("heldout")[0:16].tokens)).flatten(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feature_table", description=__doc__)
    parser.add_argument("--n-features", type=int, default=4096)
    parser.add_argument("--n-tokens", type=int, default=262_144)
    parser.add_argument("--l0", type=float, default=20.0)
    parser.add_argument("--memory-mb", type=int, default=2048)
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", default="data")
    parser.add_argument("--dictionary", default="A/1")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    root = Path(given.data)
    tokens, source = TokenStore.open(root / "tokens"), load_source(root / given.dictionary.split("/")[0] / "transformer", "cpu")
    dictionary = read_dictionary(root / given.dictionary / "dictionary")
    if dictionary.n_features != given.n_features:
        dictionary = widened(dictionary, given.n_features, given.l0, rows_of(source, tokens))
    config = FeaturesConfig(n_tokens=given.n_tokens, memory_mb=given.memory_mb, ablation=given.ablation)
    Making(source, dictionary, tokens, replace(config, n_tokens=2048))  # so that all is compiled
    before, wall, cpu = forget_peak(trim=True), time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        making = Making(source, dictionary, tokens, config)
        read_wall, read_cpu, read_peak = time.monotonic() - wall, time.process_time() - cpu, status_kilobytes("VmHWM") - before
        write_blocks(Path(folder), making.blocks(), dictionary.n_features, making.info, tokens.vocabulary)
    wall, cpu, n = time.monotonic() - wall, time.process_time() - cpu, dictionary.n_features
    found = {
        "n_features": n,
        "n_tokens": making.info.n_tokens,
        "n_firings": len(making.part.firings.token),
        "wall_ms_a_feature": 1000 * wall / n,
        "cpu_ms_a_feature": 1000 * cpu / n,
        "wall_s": wall,
        "cpu_s": cpu,
        "of_it_reading": {"wall_s": read_wall, "cpu_s": read_cpu, "peak_mb": read_peak / 1024},
        "peak_mb": (status_kilobytes("VmHWM") - before) / 1024,
        "before_mb": before / 1024,
        "memory_mb": config.memory_mb,
    }
    print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in found.items()}, indent=1))


if __name__ == "__main__":
    main()
