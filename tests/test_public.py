"""What `import sae` promises: names, laziness, speed."""

import copy
import json
import pickle
import subprocess
import sys

import pytest
import torch

import sae
from tests.web import toy_project

HEAVY = ("transformer_lens", "transformers", "datasets", "wandb", "dvc", "matplotlib")


def in_fresh_python(code: str) -> dict:
    """What `code` leaves in `found`, in a Python of its own."""
    text = f"import json, sys\nfound = {{}}\n{code}\nprint(json.dumps(found))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_sae_imports_nothing_else():
    found = in_fresh_python(
        "import sae\nfound['modules'] = [n for n in sys.modules if n.split('.')[0] in ('torch', 'numpy', 'zarr', 'sae')]"
    )
    assert found["modules"] == ["sae"]


def test_public_names_need_fewer_modules_than_torch_does_and_no_heavy_package():
    """Counted, as seconds are the machine's."""
    found = in_fresh_python(
        "import torch\ntorch_has = set(sys.modules)\nimport sae\n"
        "for name in sae.__all__: getattr(sae, name)\n"
        "found['torch'] = len(torch_has)\n"
        "found['sae'] = sorted(set(sys.modules) - torch_has)"
    )
    assert not {name.split(".")[0] for name in found["sae"]} & set(HEAVY)
    assert len(found["sae"]) < found["torch"]


def test_every_public_name_is_there_and_others_are_named_in_an_error():
    assert sae.__all__ == [
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
    for name in sae.__all__:
        assert getattr(sae, name).__name__ == name
        assert name in dir(sae)
    with pytest.raises(AttributeError, match="it has ActivationStore"):
        _ = sae.nothing_of_the_kind


def test_load_by_name_and_by_path_with_what_is_known_of_its_features(tmp_path, monkeypatch):
    data = toy_project.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, root in (("A/1", "data"), (data / "A/1", "data"), (data / "A/1/dictionary", "elsewhere"), ("A/1", data)):
        dictionary = sae.load(name, root)
        assert dictionary.run is not None
        assert dictionary.run.id == "A/1"
        assert dictionary.W_enc.shape == dictionary.W_dec.shape == (24, 16)
        assert dictionary.feature(5).id == "A/1/5"
    x = dictionary.W_dec[:4]
    assert dictionary(x).equal(dictionary.decode(dictionary.encode(x)))


def test_copies_of_a_loaded_dictionary_still_know_their_features(tmp_path):
    """By pickle, deepcopy and torch.save, also where the table was opened before; a spawned worker gets a pickle."""
    toy_project.make(tmp_path)
    dictionary = sae.load("A/1", root=tmp_path / "data")
    known = str(dictionary.feature(0))
    torch.save(dictionary, tmp_path / "saved.pt")
    copies = [pickle.loads(pickle.dumps(dictionary)), copy.deepcopy(dictionary)]
    copies.append(torch.load(tmp_path / "saved.pt", weights_only=False))
    for other in copies:
        assert str(other.feature(0)) == known
        assert torch.equal(other.W_dec, dictionary.W_dec)
        assert other.run == dictionary.run
