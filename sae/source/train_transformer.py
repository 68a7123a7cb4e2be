"""Training a transformer on contexts of tokens: seeded batches, AdamW, warm-up and decay, clipping.

Knows nothing of transformer_lens: it takes the parameters and a function that gives the loss of some contexts.
The gradient of a batch is the sum over its shards in a fixed order, so its bits do not depend on the number of threads.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sae.errors import CorpusError, NumericsError
from sae.progress import ProgressBar
from sae.shapes import Tokens
from sae.source.transformer_config import TransformerConfig
from sae.storage.tokens import Sequences, mask_tensor, to_tensor

Mask = Bool[Tensor, "context predicted"]
SummedLoss = Callable[[Tokens, Mask | None], Tensor]
"""Cross-entropy of some contexts, nats, summed over their predictions that count (entry t of the mask is the one of token t + 1;
None: all), with gradients; called from several threads."""


class Trained(NamedTuple):
    """What a training run says of itself."""

    n_tokens: int
    """Tokens seen, BOS included."""
    epochs: float
    """How often the train split was read."""
    last_loss: float
    """Mean loss of the last tenth of the steps, nats a token, on train text."""


def batches(contexts: Sequences, per_batch: int, n_batches: int, seed: int) -> Iterator[Sequences]:
    """`n_batches` batches of `per_batch` contexts, drawn without replacement; each epoch in a new seeded order, and a
    batch may lie across two. Raises `CorpusError` where there are fewer contexts than a batch."""
    n_contexts = len(contexts.tokens)
    if n_contexts < per_batch:
        raise CorpusError(
            f"{n_contexts} train contexts are fewer than one batch ({per_batch}); give more text or a smaller batch"
        )
    generator = np.random.default_rng(seed)
    order = np.empty(0, dtype=np.int64)
    for _ in range(n_batches):
        if len(order) < per_batch:
            order = np.concatenate([order, generator.permutation(n_contexts)])
        yield contexts.part(order[:per_batch])
        order = order[per_batch:]


def learning_rate(step: int, n_steps: int, config: TransformerConfig) -> float:
    """Of the step `step` (from 0): linear warm-up, then a cosine down to the final fraction."""
    n_warmup = max(1, round(config.warmup * n_steps))
    if step < n_warmup:
        return config.learning_rate * (step + 1) / n_warmup
    done = (step - n_warmup + 1) / max(1, n_steps - n_warmup)
    cosine = (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * (config.final_learning_rate + (1 - config.final_learning_rate) * cosine)


def train_transformer(
    weights: list[nn.Parameter], loss: SummedLoss, contexts: Sequences, config: TransformerConfig, device: torch.device
) -> Trained:
    """Train `weights` in place. Raises `NumericsError` at a loss that is not finite, before it reaches the weights."""
    optimizer = _optimizer(weights, config)
    tokens_per_batch = config.contexts_per_batch * contexts.tokens.shape[1]
    n_steps = math.ceil(config.n_tokens / tokens_per_batch)
    losses = []
    with ProgressBar("transformer", total=n_steps) as bar, _threads(config.shards, device) as run:
        for step, batch in enumerate(batches(contexts, config.contexts_per_batch, n_steps, config.seed)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, n_steps, config)
            losses.append(_set_gradients(weights, loss, batch, config, device, run))
            if not math.isfinite(losses[-1]):
                raise NumericsError(_diverged(losses[-1], step, config))
            nn.utils.clip_grad_norm_(weights, config.clip)
            optimizer.step()
            bar.advance(1, f"loss {losses[-1]:.3f}")
    tail = losses[-max(1, n_steps // 10) :]
    return Trained(n_steps * tokens_per_batch, n_steps * config.contexts_per_batch / len(contexts.tokens), sum(tail) / len(tail))


def _set_gradients(
    weights: list[nn.Parameter],
    loss: SummedLoss,
    batch: Sequences,
    config: TransformerConfig,
    device: torch.device,
    run: Callable[..., Iterator[Any]],
) -> float:
    """The mean loss of the batch, over the predictions that count, and its gradients, summed over the shards in their order."""
    n_predicted = max(1, int(batch.predicted.sum()))
    tokens = to_tensor(batch.tokens, device)
    shards = tokens.chunk(config.shards)
    masks: Sequence[Mask | None] = [None] * len(shards)
    if not batch.predicted.all():
        masks = mask_tensor(batch.predicted, device).chunk(config.shards)

    def part(shard: Tokens, of_it: Mask | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        mean = loss(shard, of_it) / n_predicted
        return mean.detach(), torch.autograd.grad(mean, weights)

    total = 0.0
    for index, (mean, gradients) in enumerate(run(part, shards, masks)):
        total += mean.item()
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient if index == 0 else torch.add(weight.grad, gradient)  # type: ignore[arg-type]
    return total


@contextmanager
def _threads(shards: int, device: torch.device) -> Iterator[Callable[..., Iterator[Any]]]:
    """A `map` that runs the shards on threads of their own, one core each.

    Threads over shards, because torch's threads within an operation gain little on operations of a millisecond, and where
    another process wants the same cores they wait for each other at every one: 5 times slower than a single thread.
    """
    n_threads = torch.get_num_threads()
    if device.type != "cpu" or min(shards, n_threads) == 1:
        yield map
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(shards, n_threads), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(n_threads)


def _optimizer(weights: list[nn.Parameter], config: TransformerConfig) -> torch.optim.AdamW:
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def _diverged(loss: float, step: int, config: TransformerConfig) -> str:
    return (
        f"the transformer's loss became {loss} at step {step}; nothing is saved. Lower transformer.learning_rate "
        f"(now {config.learning_rate}) or transformer.clip (now {config.clip})"
    )
