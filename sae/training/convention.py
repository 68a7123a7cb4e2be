"""λ in the conventions of others: the factor between a sum and a mean over d_mlp, and between input scales."""

from sae.errors import ConfigError

_MEAN_OVER_D_MLP: dict[str, bool] = {"ours": False, "paper": True, "saelens": False, "dictionary_learning": False}


def convert_lambda(
    value: float, source: str, target: str, *, d_mlp: int, source_scale: float = 1.0, target_scale: float = 1.0
) -> float:
    """The λ that in `target`'s loss has the same optimum as `value` in `source`'s.

    Conventions are `ours`, `paper`, `saelens` and `dictionary_learning`; raises `ConfigError` for another.
    `paper` takes the mean of the squared error over d_mlp, the others the sum; L1 is a sum in all. `*_scale` is the factor
    by which each multiplies the activations first (ours: `sae.training.trainer.input_scale`; the paper: 1). For `saelens`,
    whose L1 is weighted by the norms of free decoder rows, this is exact for unit norms only. See `docs/training.md`.
    """
    for name in (source, target):
        if name not in _MEAN_OVER_D_MLP:
            raise ConfigError(f"no convention '{name}'; there are {', '.join(_MEAN_OVER_D_MLP)}")
    summed = value * (d_mlp if _MEAN_OVER_D_MLP[source] else 1) * target_scale / source_scale
    return summed / (d_mlp if _MEAN_OVER_D_MLP[target] else 1)
