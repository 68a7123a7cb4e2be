"""λ for a wanted L0: a controller on log λ in the first part of a run; then λ is held.

L0 falls as λ rises, by an elasticity and with a lag that are not known beforehand, and falls at a constant λ too, as the
dictionary learns. A controller that only sums the error overshoots: it goes on raising λ while L0 is already on its way. So
this is a proportional-integral controller in velocity form: each step moves log λ by `PROPORTIONAL` times the change of log
L0, which answers a fall before the target is passed, and by a small multiple of log(L0 / target), which ends on the target.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PROPORTIONAL = 1.0
TRAVEL = 10.0
"""How far the integral part would move log λ over the controlled part if L0 were e times the target throughout."""
MOST_RATE = 0.03
"""Its largest step for such an error: L0 takes tens of steps to follow."""
SMOOTHING = 10
"""Steps over which log L0 is averaged."""

FARTHEST = 0.15
"""Fraction of the target that the final L0 may be off before that is told."""


def missed_target(target_l0: float, l0: float, l1: float) -> str:
    """What to tell of a run that ended with `l0` features active at λ = `l1`; nothing where that is near enough."""
    if abs(l0 - target_l0) <= FARTHEST * target_l0:
        return ""
    other = "larger" if l0 > target_l0 else "smaller"
    return (
        f"target_l0 = {target_l0:g} was missed: L0 ended at {l0:.3g}, λ at {l1:.3g}; train for more steps, or give a {other} "
        "λ as l1 instead (rows without structure may have no dictionary of that L0)"
    )


@dataclass
class SparsityController:
    """Multiplies λ by `factor`; `observe` after every step.

    Given Python's numbers it computes with these. Given tensors of a device it keeps its state there, in float64: the host, which
    launches steps well before they are computed, never waits for L0."""

    target_l0: float
    start: int
    """First step that is controlled: the end of λ's own ramp."""
    end: int
    """First step that no longer is."""
    log_factor: float | Tensor = 0.0
    smoothed: float | Tensor = 0.0
    """Mean of log L0 over the last steps or so."""

    @property
    def factor(self) -> float | Tensor:
        return self.log_factor.exp() if isinstance(self.log_factor, Tensor) else math.exp(self.log_factor)

    def observe(self, step: int, l0: float | Tensor) -> None:
        """`l0` is what `step` measured: a number, or a float64 tensor of one."""
        log_l0 = l0.clamp_min(1e-3).log() if isinstance(l0, Tensor) else math.log(max(l0, 1e-3))
        if step == 0:
            self.smoothed = log_l0
        change = (log_l0 - self.smoothed) / SMOOTHING
        self.smoothed = self.smoothed + change
        if self.start <= step < self.end:
            error = _within_one(self.smoothed - math.log(self.target_l0))
            rate = min(MOST_RATE, TRAVEL / (self.end - self.start))
            self.log_factor = self.log_factor + (PROPORTIONAL * change + rate * error)

    def numbers(self) -> list[float]:
        """Its state, for a checkpoint."""
        return [float(self.log_factor), float(self.smoothed)]

    def restore(self, numbers: list[float], device: torch.device) -> None:
        """Take over the `numbers` of another one, for steps on `device`."""
        self.log_factor, self.smoothed = numbers
        if device.type != "cpu":
            self.log_factor = torch.tensor(self.log_factor, dtype=torch.float64, device=device)
            self.smoothed = torch.tensor(self.smoothed, dtype=torch.float64, device=device)


def _within_one(value: float | Tensor) -> float | Tensor:
    return value.clamp(-1.0, 1.0) if isinstance(value, Tensor) else max(-1.0, min(1.0, value))
