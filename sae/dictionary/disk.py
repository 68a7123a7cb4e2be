"""Dictionaries on disk: `weights.safetensors` (float32, no pickle), `dictionary.json` (variant and shape), `run.json`."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from sae import artefact
from sae.dictionary.base import Dictionary
from sae.dictionary.relu import ReluDictionary
from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.errors import StoreError, disk_told
from sae.tensors import save_tensors

VARIANTS: dict[str, type[Dictionary]] = {cls.variant: cls for cls in (TiedBiasDictionary, ReluDictionary)}
WEIGHTS, SHAPE = "weights.safetensors", "dictionary.json"


def write_dictionary(dictionary: Dictionary, path: Path) -> None:
    """Put the dictionary's two files into the draft directory `path`."""
    save_tensors({name: value.float() for name, value in dictionary.state_dict().items()}, path / WEIGHTS)
    shape = {"variant": dictionary.variant, "n_features": dictionary.n_features, "d_mlp": dictionary.d_mlp}
    (path / SHAPE).write_text(json.dumps(shape, indent=1) + "\n", encoding="utf-8")


def read_dictionary(path: str | Path) -> Dictionary:
    """The committed dictionary in the folder `path`, digests checked. Raises `StoreError`, or `DiskError` where the system does
    not let it be read."""
    return artefact.steadily(path, lambda: _read(Path(path)))


def _read(path: Path) -> Dictionary:
    run = artefact.read_run(path, "dictionary", made_by="dvc repro train")
    artefact.verify(path, run, only=(WEIGHTS, SHAPE))
    try:
        shape = json.loads((path / SHAPE).read_text(encoding="utf-8"))
        dictionary = VARIANTS[shape["variant"]].from_tensors(load_file(path / WEIGHTS))
    except (KeyError, json.JSONDecodeError, SafetensorError) as error:
        known = ", ".join(VARIANTS)
        raise StoreError(f"{path} is no dictionary that this version reads ({error!r}; variants: {known})") from None
    dictionary.run = run
    return dictionary


def dictionary_path(name: str | Path, root: str | Path = "data") -> Path:
    """The folder of a dictionary named as in the paper (`A/1` lies in `data/A/1/dictionary`) or by a path."""
    with disk_told(f"looking for the dictionary {name}"):
        for candidate in (Path(name), Path(root) / name):
            if (candidate / "dictionary").is_dir():
                return candidate / "dictionary"
            if (candidate / SHAPE).is_file():
                return candidate
    found = sorted(path.parent.relative_to(root).as_posix() for path in Path(root).glob("*/*/dictionary"))
    there = f"there are: {', '.join(found)}" if found else f"there is none under {root}/ yet (make repro makes one)"
    raise StoreError(f"no dictionary '{name}' under {Path(root).resolve()}; {there}")
