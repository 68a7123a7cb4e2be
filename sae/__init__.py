"""Sparse autoencoders on the MLP activations of one-layer transformers, from text to readable features.

    import sae
    dictionary = sae.load("A/1")                               # one that the pipeline trained
    dictionary = sae.train(rows, n_features=4096, target_l0=20)  # or one of your own rows
    f = dictionary.encode(x)

The names below are imported when they are first used, so that `import sae` itself costs nothing.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    # Locks and atomic replacement are POSIX's: without them a store could be lost, so nothing is begun.
    raise ImportError("sae-pipeline runs on Linux and macOS; on Windows, install it in WSL 2 (wsl --install)")

__version__ = "0.2.0"

if TYPE_CHECKING:
    from sae.dictionary.base import Dictionary
    from sae.features.table import FeatureTable
    from sae.library import load, save
    from sae.live.rows import LiveRows
    from sae.storage.activations import ActivationStore
    from sae.storage.tokens import TokenStore
    from sae.training.config import TrainConfig
    from sae.training.fit import train, train_many

_HOMES = {
    "ActivationStore": "sae.storage.activations",
    "Dictionary": "sae.dictionary.base",
    "FeatureTable": "sae.features.table",
    "LiveRows": "sae.live.rows",
    "TokenStore": "sae.storage.tokens",
    "TrainConfig": "sae.training.config",
    "load": "sae.library",
    "save": "sae.library",
    "train": "sae.training.fit",
    "train_many": "sae.training.fit",
}

__all__ = [
    "ActivationStore",
    "Dictionary",
    "FeatureTable",
    "LiveRows",
    "TokenStore",
    "TrainConfig",
    "load",
    "save",
    "train",
    "train_many",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sae' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
