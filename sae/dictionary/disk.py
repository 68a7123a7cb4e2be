"""Dictionaries on disk: `weights.safetensors` (float32, no pickle), `dictionary.json` (variant and shape), `run.json`."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae import artefact
from sae.dictionary.base import Dictionary
from sae.dictionary.relu import ReluDictionary
from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.errors import StoreError, disk_told
from sae.opened import steadily
from sae.paths import given
from sae.tensors import save_tensors

VARIANTS: dict[str, type[Dictionary]] = {cls.variant: cls for cls in (TiedBiasDictionary, ReluDictionary)}
WEIGHTS, SHAPE = "weights.safetensors", "dictionary.json"


def write_dictionary(dictionary: Dictionary, path: Path) -> None:
    """Put the dictionary's two files into the draft directory `path`. Raises `StoreError` for weights that could not be read
    again."""
    tensors = {name: value.float() for name, value in dictionary.state_dict().items()}
    save_tensors(_checked(tensors, "the dictionary"), path / WEIGHTS)
    shape = {"variant": dictionary.variant, "n_features": dictionary.n_features, "d_mlp": dictionary.d_mlp}
    (path / SHAPE).write_text(json.dumps(shape, indent=1) + "\n", encoding="utf-8")


def read_dictionary(path: str | Path) -> Dictionary:
    """The committed dictionary in the folder `path`, digests checked.

    Raises `StoreError`, also where its weights are no floats or hold NaN or infinity; `DiskError` where the system does not let
    it be read."""
    path = given(path)
    return steadily(path, lambda: _read(path))


def _read(path: Path) -> Dictionary:
    run = artefact.read_run(path, "dictionary", made_by="dvc repro train")
    unsigned = [name for name in (WEIGHTS, SHAPE) if name not in run.files]
    if unsigned:
        raise StoreError(f"{path}'s record (run.json) has no digest of {', '.join(unsigned)}; make or save the dictionary again")
    artefact.verify(path, run, only=(WEIGHTS, SHAPE))
    try:
        shape = json.loads((path / SHAPE).read_text(encoding="utf-8"))
        dictionary = VARIANTS[shape["variant"]].from_tensors(_checked(load_file(path / WEIGHTS), str(path)))
    except (KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        known = ", ".join(VARIANTS)
        raise StoreError(f"{path} is no dictionary that this version reads ({error!r}; variants: {known})") from None
    dictionary.run = run
    return dictionary


def _checked(tensors: dict[str, Tensor], owner: str) -> dict[str, Tensor]:
    """`tensors`, of `owner`. Raises `StoreError` for one that is no weights: of whole numbers, or with NaN or infinity in it."""
    for name, value in tensors.items():
        if not value.is_floating_point():
            raise StoreError(f"{name} of {owner} is {value.dtype}; the weights of a dictionary are floats: save it again")
        if not torch.isfinite(value).all():
            n_bad = int((~torch.isfinite(value)).sum())
            raise StoreError(f"{name} of {owner} holds NaN or infinity ({n_bad:,} of {value.numel():,}); train it again")
    return tensors


def dictionary_path(name: str | Path, root: str | Path = "data") -> Path:
    """The folder of a dictionary named as in the paper (`A/1` lies in `data/A/1/dictionary`) or by a path."""
    root = given(root)
    with disk_told(f"looking for the dictionary {name}"):
        for candidate in (given(name), root / name):
            if (candidate / "dictionary").is_dir():
                return candidate / "dictionary"
            if (candidate / SHAPE).is_file():
                return candidate
    above, _, index = str(name).rstrip("/").rpartition("/")
    if index.isdecimal() and ((root / above / SHAPE).is_file() or (root / above / "dictionary").is_dir()):
        raise StoreError(f"'{name}' is a feature of the dictionary {above}: look at it with sae feature {name}, or name {above}")
    found = sorted(path.parent.relative_to(root).as_posix() for path in root.glob("*/*/dictionary"))
    there = f"there are: {', '.join(found)}" if found else f"there is none under {root}/ yet (make repro makes one)"
    raise StoreError(f"no dictionary '{name}' under {root.resolve()}; {there}")
