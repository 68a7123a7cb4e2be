"""SAELens' ActivationsStore over a HookedTransformer with random weights. Runs in the peers' environment, as a worker.

Left as its defaults have it: half of the buffer is kept for mixing, a batch is 4,096 rows. Its default buffer of 20 contexts is
smaller than that batch at contexts of 128, which it refuses, so the buffer holds two batches.
"""

import warnings
from typing import Any

import torch
from datasets import Dataset
from sae_lens import ActivationsStore  # type: ignore[import-not-found]
from transformer_lens import HookedTransformer, HookedTransformerConfig

from benchmarks.worker import clocked, main

N_PROMPTS = 4096


class StoreSession:
    """`next()` is one step: a batch of rows from the mixing buffer, which calls the transformer when it runs low."""

    def __init__(
        self, fields: dict[str, Any], hook: str, n_contexts: int, length: int, batch: int, positions: tuple[int | None, ...]
    ):
        warnings.simplefilter("ignore")  # that the prompts are too few for the training tokens, and are gone through again
        cfg = HookedTransformerConfig(**{**fields, "eps": 1e-5, "seed": 0, "device": "cpu", "dtype": torch.float32})
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(cfg.d_vocab, (N_PROMPTS, length), generator=generator)
        taken = len(range(length)[slice(*positions)])
        self.store = ActivationsStore(
            model=HookedTransformer(cfg),
            dataset=Dataset.from_dict({"tokens": tokens.numpy()}),
            streaming=False,
            hook_name=hook,
            hook_head_index=None,
            context_size=length,
            d_in=cfg.d_mlp,
            n_batches_in_buffer=2 * batch // taken,
            total_training_tokens=10**9,
            store_batch_size_prompts=n_contexts,
            train_batch_size_tokens=batch,
            prepend_bos=False,
            normalize_activations="none",
            device=torch.device("cpu"),
            dtype="float32",
            seqpos_slice=tuple(positions),
        )

    def run(self, steps: int) -> dict[str, float]:
        return clocked(lambda: next(self.store), steps)

    def check(self) -> dict[str, list[int]]:
        return {"shape": list(next(self.store).shape)}


if __name__ == "__main__":
    main(StoreSession)
