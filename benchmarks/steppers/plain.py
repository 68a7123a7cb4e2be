"""The L1 dictionary that everyone writes: autograd, unit-norm decoder rows with the gradient projected, torch's Adam."""

import contextlib

import torch
from torch import Tensor


class Plain:
    """f = ReLU(W_enc (x − b_dec) + b_enc), x̂ = f W_dec + b_dec, L = mean over rows of [ Σ_d (x − x̂)² + λ Σ_i f_i ]."""

    def __init__(
        self,
        weights: dict[str, Tensor],
        *,
        l1: float,
        learning_rate: float,
        batch_size: int,
        fused: bool | None = None,
        autocast: bool = False,
    ):
        """`fused=None` leaves the choice to torch, which takes its for-each loop on a CPU."""
        names = ("W_enc", "b_enc", "W_dec", "b_dec")
        self.parameters = [torch.nn.Parameter(weights[name].clone()) for name in names]
        self.adam = torch.optim.Adam(self.parameters, lr=learning_rate, fused=fused)
        self.l1, self.autocast = l1, autocast

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f [row, feature] and x̂ [row, d_mlp]."""
        W_enc, b_enc, W_dec, b_dec = self.parameters
        with torch.autocast("cpu", dtype=torch.bfloat16) if self.autocast else contextlib.nullcontext():
            f = torch.relu((x - b_dec) @ W_enc.T + b_enc)
            return f, f @ W_dec + b_dec

    def step(self, x: Tensor) -> None:
        f, reconstruction = self.forward(x)
        loss = (reconstruction - x).square().sum(-1).mean() + self.l1 * f.sum(-1).mean()
        self.adam.zero_grad()
        loss.backward()
        W_dec = self.parameters[2]
        with torch.no_grad():
            assert W_dec.grad is not None
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
        self.adam.step()
        with torch.no_grad():
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))

    @torch.no_grad()
    def measure(self, x: Tensor) -> tuple[float, float]:
        f, reconstruction = self.forward(x)
        return float((f > 0).sum(1).double().mean()), float((reconstruction - x).square().sum(1).double().mean())
