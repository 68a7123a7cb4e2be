"""Triton compiles every kernel here, without a GPU, for the cards that the engine may meet: what the interpreter cannot tell.

A card takes a minute: those of H100 and H200 alone, unless SAE_COMPILE_FOR names others, as `make test-triton-cards` does."""

import json
import os
import subprocess
import sys

import pytest

from sae.kernels.triton_door import AVAILABLE
from tests.import_graph import ROOT

SHARED = {80: 163, 86: 99, 90: 227, 100: 227, 120: 99}
"""KB of shared memory that a block may have, by architecture (CUDA's programming guide; 89 is as 86)."""
PRODUCTS = {80: "mma.sync", 86: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma", 120: "mma.sync"}
"""With which instruction each has its tensor cores multiply."""


def is_product(kernel):
    return kernel == "encode_kernel" or (kernel.startswith("dense_") and kernel != "dense_features_kernel")


@pytest.mark.slow
@pytest.mark.ahead
@pytest.mark.skipif(not AVAILABLE, reason="needs triton: pip install triton==3.7.1")
@pytest.mark.parametrize("architecture", [int(name) for name in os.environ.get("SAE_COMPILE_FOR", "90").split()])
def test_every_kernel_compiles_and_fits(tmp_path, architecture):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.kernels.ahead", str(architecture)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = json.loads(done.stdout.splitlines()[-1])
    assert len({each["kernel"] for each in kernels}) == 14
    for each in kernels:
        name = each["kernel"]
        assert each["shared"] <= 1024 * SHARED[architecture], f"{name} does not fit a block's shared memory"
        wanted = PRODUCTS[architecture] if is_product(name) else ""
        assert each["products"] == wanted, f"{name}: the products are to run on the tensor cores"
        assert bool(each["atomics"]) == (name == "encode_kernel"), f"{name}: only the pool's cursor may be atomic"
