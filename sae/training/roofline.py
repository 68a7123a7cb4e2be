"""What a training step cannot be faster than: the encoder's product over all entries, the one part that no sparsity removes."""

import time

import torch

from sae.processor import multiplies_bfloat16

BYTES = 32 << 20
"""Size of the product that is timed."""


@torch.no_grad()
def encoder_rows_per_second(n_features: int, d_mlp: int, device: torch.device) -> float:
    """Rows a second at which `device` multiplies [row, d_mlp] by [d_mlp, feature], best of three, in bfloat16 where it has
    instructions for that and else in float32. On inputs that are mostly zeros a CPU's sparse screen can be faster than this."""
    bfloat16 = device.type == "cuda" or multiplies_bfloat16()
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    n_rows = max(16, min(8192, BYTES // (4 * n_features)))
    x, W = torch.ones(n_rows, d_mlp, dtype=dtype, device=device), torch.ones(n_features, d_mlp, dtype=dtype, device=device)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        product = torch.mm(x, W.T)
        float(product[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - started)
    return n_rows / min(seconds[1:])
