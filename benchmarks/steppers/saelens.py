"""SAELens' trainer of its standard dictionary, through its own public names. Runs in the peers' environment.

Its task differs from the paper's: L1 weighted by the norms of free decoder rows, the gradient clipped to a norm of 1, no
projection and no unit norm. On the same weights (unit rows) the loss is the same number.
"""

from typing import Any

import torch
from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig  # type: ignore[import-not-found]
from sae_lens.config import SAETrainerConfig  # type: ignore[import-not-found]
from sae_lens.training.sae_trainer import SAETrainer  # type: ignore[import-not-found]
from torch import Tensor

from benchmarks.batches import Trained, batches


def make_trainer(
    d_mlp: int, width: int, l1: float, lr: float, steps: int, batch_size: int, provider: Any, **options: Any
) -> SAETrainer:
    """A trainer over a new dictionary; `options` go to whichever of its two config classes has a field of that name.

    `lr_end` is a tenth of `lr`, as its runner has it; its default schedule is constant and does not use it.
    """
    own = {name: options.pop(name) for name in list(options) if name in StandardTrainingSAEConfig.__dataclass_fields__}
    sae = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=d_mlp, d_sae=width, l1_coefficient=l1, **own))
    samples = {"total_training_samples": steps * batch_size, "train_batch_size_samples": batch_size}
    config = SAETrainerConfig(**{**samples, "lr": lr, "lr_end": lr / 10, **options})
    return SAETrainer(config, sae, provider)


class SaeLens:
    """`SAETrainer.step`, and the counter that its `fit` advances after it."""

    def __init__(
        self,
        weights: dict[str, Tensor],
        *,
        l1: float,
        learning_rate: float,
        batch_size: int,
        autocast: bool = False,
    ):
        width, d_mlp = weights["W_enc"].shape
        self.trainer = make_trainer(
            d_mlp,
            width,
            l1,
            learning_rate,
            10**6,
            batch_size,
            None,
            autocast=autocast,
            apply_b_dec_to_input=True,
        )
        transposed = {**weights, "W_enc": weights["W_enc"].T.contiguous()}
        self.trainer.sae.load_state_dict(transposed)

    def step(self, x: Tensor) -> None:
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    @torch.no_grad()
    def measure(self, x: Tensor) -> tuple[float, float]:
        with self.trainer.autocast_if_enabled:
            f = self.trainer.sae.encode(x)
            error = self.trainer.sae.decode(f) - x
        return float((f > 0).sum(1).double().mean()), float(error.square().sum(1).double().mean())


def saelens_standard(
    rows: Tensor, *, steps: int, width: int, l1: float, lr: float, batch_size: int, seed: int, **options: Any
) -> Trained:
    """Train SAELens' standard dictionary on `rows` [row, d_mlp] (taken as they are: scale them first) with its own defaults.

    `l1` is λ of Σ_d (x − x̂)² + λ Σ_i f_i ‖W_dec[i]‖, means over rows. `options` are fields of `StandardTrainingSAEConfig`
    (`l1_warm_up_steps`, `apply_b_dec_to_input`) or `SAETrainerConfig` (`lr_warm_up_steps`, `lr_decay_steps`, `adam_beta1`).
    """
    torch.manual_seed(seed)
    feed = batches(rows, batch_size, seed)
    sae = make_trainer(rows.shape[1], width, l1, lr, steps, batch_size, feed, **options).fit()
    state = {name: tensor.detach().clone() for name, tensor in sae.state_dict().items()}
    tied = bool(sae.cfg.apply_b_dec_to_input)
    return Trained(state["W_enc"].T.contiguous(), state["b_enc"], state["W_dec"], state["b_dec"], tied)
