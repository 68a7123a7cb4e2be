"""Who takes part: for each contestant the environment it runs in and the function that makes its stepper.

Data only, on the Python library alone: the parent reads it to start the right interpreter, the worker to find the function.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way of doing the training step of an L1 dictionary."""

    about: str
    make: str
    """`module:function`; called with weights, l1, learning_rate, batch_size and `options`, returns a `worker.Stepper`."""
    options: dict[str, Any] = field(default_factory=dict)
    peers: bool = False
    """Runs in the peers' environment, else in the project's."""
    within: float = 1e-3
    """How far its L0 and squared error may be from that of the exact contestants on the same rows and weights, relative: the
    proof that it does the same task. One unit more or less in 512 rows of L0 20 is 1e-4."""
    l1: bool = True
    """Whether its task is the L1 dictionary's; if not, its L0 and error are shown and not compared."""
    warm_up: int = 2
    """Steps before anything is timed: the first compile, allocate, and fault pages in."""
    target: float | None = None
    """How many times faster ours is to be at n = 512, m = 4,096, batch 4,096, L0 about 20 (the issue's targets)."""


CONTESTANTS: dict[str, Contestant] = {
    "plain": Contestant(about="plain PyTorch: autograd, torch.optim.Adam", make="benchmarks.steppers.plain:Plain", target=12),
    "plain_fused": Contestant(about="plain, fused Adam", make="benchmarks.steppers.plain:Plain", options={"fused": True}),
    "plain_autocast": Contestant(
        about="plain, fused Adam, bf16 autocast (other numerics)",
        make="benchmarks.steppers.plain:Plain",
        options={"fused": True, "autocast": True},
        within=3e-2,
        target=5,
    ),
    "saelens": Contestant(
        about="SAELens SAETrainer.step, standard", make="benchmarks.steppers.saelens:SaeLens", peers=True, target=14
    ),
    "saelens_autocast": Contestant(
        about="the same with autocast=True",
        make="benchmarks.steppers.saelens:SaeLens",
        options={"autocast": True},
        peers=True,
        within=3e-2,
    ),
    "dictionary_learning": Contestant(
        about="dictionary_learning StandardTrainer.update",
        make="benchmarks.steppers.dictlearning:DictionaryLearning",
        peers=True,
        target=13,
    ),
    "sparsify": Contestant(
        about="eai-sparsify TopK, k = 32, Adam (another task)",
        make="benchmarks.steppers.sparsify_topk:Sparsify",
        peers=True,
        l1=False,
    ),
    "ours": Contestant(about="sae.kernels", make="benchmarks.steppers.ours:Ours", warm_up=16),  # and it tries its screens
}
