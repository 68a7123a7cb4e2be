"""Sparse autoencoders on the MLP activations of one-layer transformers, from text to readable features.

    import sae
    dictionary = sae.load("A/1")
    f = dictionary.encode(x)

The names below are imported when they are first used, so that `import sae` itself costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae.dictionary.base import Dictionary
    from sae.features.table import FeatureTable
    from sae.library import load
    from sae.storage.activations import ActivationStore
    from sae.storage.tokens import TokenStore

_HOMES = {
    "ActivationStore": "sae.storage.activations",
    "Dictionary": "sae.dictionary.base",
    "FeatureTable": "sae.features.table",
    "TokenStore": "sae.storage.tokens",
    "load": "sae.library",
}

__all__ = ["ActivationStore", "Dictionary", "FeatureTable", "TokenStore", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sae' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
