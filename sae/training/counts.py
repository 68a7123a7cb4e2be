"""On how many rows each feature fired, out of how many."""

import torch
from torch import Tensor


class Firings:
    """Counts since the last `clear`."""

    def __init__(self, n_features: int, device: torch.device):
        self.n_fired = torch.zeros(n_features, dtype=torch.int64, device=device)
        self.n_rows = 0

    def add(self, n_fired: Tensor, n_rows: int) -> None:
        self.n_fired += n_fired
        self.n_rows += n_rows

    def clear(self) -> None:
        self.n_fired.zero_()
        self.n_rows = 0

    def load(self, n_fired: Tensor, n_rows: int) -> None:
        self.n_fired.copy_(n_fired)
        self.n_rows = n_rows
