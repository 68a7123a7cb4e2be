"""The memory of a feature table is bounded by `features.memory_mb`, whatever the width of the dictionary."""

import json
import subprocess
import sys

import pytest

from tests.import_graph import ROOT

PROGRAM = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from benchmarks.memory import forget_peak, status_kilobytes
from sae.features.collect import Making
from sae.features.config import FeaturesConfig
from sae.features.side_by_side import Side
from sae.features.table import write_blocks
from tests.features.toy import random_dictionary
from tests.support.stores import make_tokens
from tests.support.toy_source import ToySource

n_features, memory_mb, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
torch.set_num_threads(1)
source, tokens = ToySource(d_mlp=64), make_tokens(folder / "tokens", n_heldout=128)
config = FeaturesConfig(memory_mb=memory_mb, ablation=True, other="A/0", logit_min_count=0)
dictionaries = {n: random_dictionary(n, 64, bias=-3.5) for n in (1024, n_features)}

def run(n, name, config):
    other = Side("A/0", source, dictionaries[1024])
    making = Making(source, dictionaries[n], tokens, config, other=other)
    (folder / name).mkdir()
    write_blocks(folder / name, making.blocks(), n, making.info, tokens.vocabulary)
    return len(making.part.firings.token) + len(making.part.other.token)

run(1024, "first", replace(config, n_tokens=64))
before = forget_peak(trim=True)
n_firings = run(n_features, "whole", config)
print(json.dumps([(status_kilobytes("VmHWM") - before) / 1024, n_firings * 48 / 2**20]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("n_features", "memory_mb"), [(4096, 192), (32_768, 256), (32_768, 384)])
def test_peak(tmp_path, n_features, memory_mb):
    given = [str(value) for value in (n_features, memory_mb, tmp_path)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, firings = json.loads(done.stdout)
    print(f"\n{n_features:,} features, {memory_mb} MiB: peak {peak:.0f}, of which firings up to {firings:.0f}")
    assert firings > 10, "enough fires to be felt"
    assert peak < memory_mb
