"""dictionary_learning's trainer of the 2023 paper's dictionary. Runs in the peers' environment.

The package's `__init__` imports nnsight for its buffer of activations, whose dependencies pull another torch over the pinned
one. The trainers need none of it: the package is entered under its name with its folder and without its `__init__`. Its files are
as they were installed.
"""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.batches import Trained, batches


def enter_without_init(package: str) -> None:
    """Make the submodules of `package` importable without running its `__init__`."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed in {sys.prefix}", name=package)
    module = types.ModuleType(package)
    module.__path__ = [str(Path(spec.origin).parent)]
    sys.modules[package] = module


enter_without_init("dictionary_learning")

from dictionary_learning.trainers.standard import StandardTrainer  # type: ignore[import-not-found]  # noqa: E402


def make_trainer(d_mlp: int, width: int, l1: float, lr: float, steps: int, **options: Any) -> StandardTrainer:
    """A trainer over a new dictionary. `layer` and `lm_name` are asked for and not used."""
    return StandardTrainer(
        steps=steps, activation_dim=d_mlp, dict_size=width, layer=0, lm_name="", lr=lr, l1_penalty=l1, device="cpu", **options
    )


class DictionaryLearning:
    """`StandardTrainer.update`."""

    def __init__(self, weights: dict[str, Tensor], *, l1: float, learning_rate: float, batch_size: int):
        width, d_mlp = weights["W_enc"].shape
        self.trainer = make_trainer(d_mlp, width, l1, learning_rate, 10**6, warmup_steps=0, sparsity_warmup_steps=None)
        dictionary = self.trainer.ae
        with torch.no_grad():  # copied into its own memory: its encoder lies there transposed, and that is part of its speed
            dictionary.encoder.weight.copy_(weights["W_enc"])
            dictionary.encoder.bias.copy_(weights["b_enc"])
            dictionary.decoder.weight.copy_(weights["W_dec"].T)
            dictionary.bias.copy_(weights["b_dec"])
        self.n_steps = 0

    def step(self, x: Tensor) -> None:
        self.trainer.update(self.n_steps, x)
        self.n_steps += 1

    @torch.no_grad()
    def measure(self, x: Tensor) -> tuple[float, float]:
        reconstruction, f = self.trainer.ae(x, output_features=True)
        return float((f > 0).sum(1).double().mean()), float((reconstruction - x).square().sum(1).double().mean())


def dictionary_learning_standard(
    rows: Tensor, *, steps: int, width: int, l1: float, lr: float, batch_size: int, seed: int, **options: Any
) -> Trained:
    """Train dictionary_learning's `StandardTrainer` on `rows` [row, d_mlp] (taken as they are: scale them first).

    `l1` is λ of Σ_d (x − x̂)² + λ Σ_i f_i, means over rows. Its warm-ups of 1,000 steps (learning rate) and 2,000 (λ) are cut
    to a tenth and a fifth of a short run; `options` are its own arguments (`warmup_steps`, `sparsity_warmup_steps`,
    `decay_start`, `resample_steps`) and go before that.
    """
    warmups = {"warmup_steps": min(1000, steps // 10), "sparsity_warmup_steps": min(2000, steps // 5)}
    trainer = make_trainer(rows.shape[1], width, l1, lr, steps, **{"seed": seed, **warmups, **options})
    feed = batches(rows, batch_size, seed)
    for step in range(steps):
        trainer.update(step, next(feed))
    dictionary = trainer.ae
    weight, bias = dictionary.encoder.weight.detach().clone(), dictionary.encoder.bias.detach().clone()
    decoder = dictionary.decoder.weight.detach().T.contiguous()
    return Trained(weight, bias, decoder, dictionary.bias.detach().clone(), True)
