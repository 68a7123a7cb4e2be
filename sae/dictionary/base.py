"""`Dictionary`: encode and decode, and nothing of how it was trained."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sae.errors import ConfigError
from sae.provenance import Run
from sae.shapes import Directions, PerFeature, PerNeuron


class Dictionary(nn.Module, ABC):
    """A learned dictionary: `n_features` directions in a space of `d_mlp` neurons.

    `W_enc` and `W_dec` are both [feature, d_mlp]: rows are features. `b_enc` is [feature], `b_dec` [d_mlp].
    Its parameters do not require gradients; `requires_grad_()` makes them.

    It computes in its own precision, float32 unless it was cast: activations in any other (a transformer's bfloat16, numpy's
    float64) are cast to it first, and results are in it. For float64's accuracy cast the dictionary: `dictionary.double()`.
    """

    variant: ClassVar[str]
    """Its name on disk."""

    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter

    def __init__(self, W_enc: Directions, b_enc: PerFeature, W_dec: Directions, b_dec: PerNeuron):
        super().__init__()
        if not (W_enc.shape == W_dec.shape == (b_enc.shape[0], b_dec.shape[0])):
            raise ConfigError(
                f"dictionary shapes disagree: W_enc {tuple(W_enc.shape)}, W_dec {tuple(W_dec.shape)}, b_enc "
                f"{tuple(b_enc.shape)}, b_dec {tuple(b_dec.shape)}; wanted [feature, d_mlp] twice, [feature], [d_mlp]"
            )
        for name, value in (("W_enc", W_enc), ("b_enc", b_enc), ("W_dec", W_dec), ("b_dec", b_dec)):
            setattr(self, name, nn.Parameter(value.detach().clone().contiguous(), requires_grad=False))
        self.run: Run | None = None
        """Where it came from; None for one that was never saved."""
        self.describe: Callable[[int], Any] | None = None
        """Looks a feature up in the FeatureTable that was made for this dictionary; set by `sae.load`."""

    @property
    def n_features(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_mlp(self) -> int:
        return self.W_enc.shape[1]

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Feature activations [..., feature] of MLP activations `x` [..., d_mlp]; never negative."""

    def encode_only(self, x: Tensor, features: Tensor) -> Tensor:
        """Activations [..., len(features)] of some features alone, by index; cheaper than `encode` where a variant can.

        A matrix product of another shape may round the last bit differently.
        """
        return self.encode(x)[..., features]

    def decode(self, f: Tensor) -> Tensor:
        """Reconstructed MLP activations [..., d_mlp] of feature activations `f` [..., feature]."""
        return self._floats(f, "feature activations", "n_features") @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """`decode(encode(x))`."""
        return self.decode(self.encode(x))

    def feature(self, index: int) -> Any:
        """What the FeatureTable knows of one feature. Raises `ConfigError` where no table lies beside the dictionary."""
        if not 0 <= index < self.n_features:
            raise ConfigError(f"no feature {index}: this dictionary has {self.n_features}")
        if self.describe is None:
            raise ConfigError("nothing is known of this dictionary's features yet; run: dvc repro features")
        return self.describe(index)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Dictionary":
        return cls(tensors["W_enc"], tensors["b_enc"], tensors["W_dec"], tensors["b_dec"])

    def extra_repr(self) -> str:
        return f"n_features={self.n_features}, d_mlp={self.d_mlp}"

    def rows(self, x: Tensor) -> Tensor:
        """`x` in the dictionary's precision. Raises `ConfigError` where it is no floats or its last axis is not d_mlp."""
        return self._floats(x, "activations", "d_mlp")

    def _floats(self, x: Tensor, what: str, axis: str) -> Tensor:
        if not x.is_floating_point():
            raise ConfigError(f"{what} of {x.dtype} given to a dictionary of {self.W_enc.dtype}; give floats, such as x.float()")
        if x.is_meta or x.layout is not torch.strided:
            found = "on the meta device, without numbers," if x.is_meta else f"of layout {x.layout}"
            raise ConfigError(f"{what} {found} given to a dictionary; give a dense tensor with its numbers: x.to_dense()")
        if not x.ndim:
            raise ConfigError(f"{what} without axes given to a dictionary of {axis} = {getattr(self, axis)}")
        if x.device != self.W_enc.device:
            raise ConfigError(
                f"{what} on {x.device} given to a dictionary on {self.W_enc.device}; bring them together with "
                "dictionary.to(x.device) or x.to(dictionary.W_enc.device)"
            )
        if x.shape[-1] != getattr(self, axis):
            raise ConfigError(f"{what} of width {x.shape[-1]} given to a dictionary of {axis} = {getattr(self, axis)}")
        return x.to(self.W_enc.dtype)
