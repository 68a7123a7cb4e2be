"""What is logged of a step: the batch's loss and the state of the features."""

from typing import Any

import torch

from sae.kernels.gradients import StepResult
from sae.shapes import Rows
from sae.training.counts import Firings


def measure(result: StepResult, x: Rows, l1: float, window: Firings, ultralow: float) -> dict[str, Any]:
    """Scalars of the batch `x` on scaled inputs, and densities over the rows of the current density window.

    `fvu` is the squared error over the batch's variance; `n_ultralow` counts features that fired on fewer than `ultralow` of the
    window's rows, but on some."""
    variance = float((x - x.mean(0)).square().sum(1).mean())
    density = window.n_fired.double() / max(window.n_rows, 1)
    counts, edges = torch.histogram(density.clamp_min(1e-9).log10().float().cpu(), bins=45, range=(-9.0, 0.0))
    squared_error = float(result.squared_error)
    return {
        "loss": squared_error + l1 * float(result.l1),
        "squared_error": squared_error,
        "l1": float(result.l1),
        "l0": float(result.n_fired.sum()) / len(x),
        "fvu": squared_error / max(variance, 1e-30),
        "gradient_norm": float(result.gradient_norm),
        "n_dead": int((window.n_fired == 0).sum()),
        "n_ultralow": int(((density < ultralow) & (window.n_fired > 0)).sum()),
        "n_density_rows": window.n_rows,
        "lambda": l1,
        "log10_density": (counts.numpy(), edges.numpy()),
    }
