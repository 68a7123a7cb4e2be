"""Triton compiles every kernel for an H200 (sm_90) here, without a GPU: what the interpreter cannot tell.

In a process of its own, as the interpreter is asked for before triton is first imported. Buffers are fake tensors, so the
sizes are the real ones.
"""

import json
import os
import subprocess
import sys

import pytest

from sae.kernels.triton_door import AVAILABLE
from tests.import_graph import ROOT

SCRIPT = """
import json, re, torch, triton
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sae.kernels.gradients import Weights
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.state import State
from sae.kernels.triton_buffers import Sizes, allocate, kept, of_batch
from sae.kernels.triton_step import Launches

NAMES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.int32: "i32", torch.int64: "i64"}
seen = {}

class Compiler(Launches):
    def launch(self, kernel, grid, options, **others):
        names = self.names | others
        signature, constants, attributes = {}, {}, {}
        for at, parameter in enumerate(kernel.params):
            value = names[parameter.name]
            if parameter.is_constexpr:
                kind, constants[(at,)] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                kind, attributes[(at,)] = "*" + NAMES[value.dtype], [["tt.divisibility", 16]]
            else:
                kind = "fp32" if isinstance(value, float) else "i32"
                if kind == "i32" and value % 16 == 0:
                    attributes[(at,)] = [["tt.divisibility", 16]]
            signature[parameter.name] = kind
        source = ASTSource(kernel, signature, constants, attributes)
        if (kernel.__name__, str(signature), str(constants)) not in seen:
            ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
            counts = {"wgmma": ptx.count("wgmma.mma_async"), "atomics": len(re.findall(r"\\b(atom|red)[.]", ptx))}
            seen[kernel.__name__, str(signature), str(constants)] = counts

n_rows, m, n = 8192, 4096, 512
with FakeTensorMode():
    for objective, rule in [(Objective(), UpdateRule()),
                            (Objective(tied_bias=False, weighted_l1=True), UpdateRule(unit_norm=False, max_gradient_norm=1.0))]:
        sizes = Sizes(n_rows=n_rows, n_features=m, d_mlp=n)
        state = State.start(Weights(torch.empty(m, n), torch.empty(m), torch.empty(m, n), torch.empty(n)))
        named = {name.replace(".", "_"): tensor for name, tensor in state.tensors().items()}
        buffers = allocate(of_batch(sizes) | kept(sizes), torch.device("cpu"))
        Compiler(sizes, objective, rule, buffers | named).run()
print(json.dumps([[key[0], counts] for key, counts in seen.items()]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not AVAILABLE, reason="needs triton: pip install triton==3.7.1")
def test_every_kernel_compiles_for_sm_90(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    compiled = json.loads(done.stdout.splitlines()[-1])
    names = {name for name, _ in compiled}
    assert len(names) == 14
    for name, counts in compiled:
        matrix = name in ("encode_kernel",) or (name.startswith("dense_") and name != "dense_features_kernel")
        assert bool(counts["wgmma"]) == matrix, f"{name}: the products are to run on the tensor cores"
        assert bool(counts["atomics"]) == (name == "encode_kernel"), f"{name}: only the pool's cursor may be atomic"
