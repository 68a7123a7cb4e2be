"""What `import sae` promises: names, laziness, speed."""

import json
import subprocess
import sys

import pytest

import sae
from tests.web import toy_project

HEAVY = ("transformer_lens", "transformers", "datasets", "wandb", "dvc", "matplotlib")


def in_fresh_python(code: str) -> dict:
    """What `code` leaves in `found`, in a Python of its own."""
    text = f"import json, sys, time\nfound = {{}}\n{code}\nprint(json.dumps(found))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_sae_imports_nothing_else():
    found = in_fresh_python(
        "import sae\nfound['modules'] = [n for n in sys.modules if n.split('.')[0] in ('torch', 'numpy', 'zarr', 'sae')]"
    )
    assert found["modules"] == ["sae"]


def test_public_names_cost_well_under_a_second_more_than_torch_and_no_heavy_package():
    found = in_fresh_python(
        "start = time.process_time(); import torch; found['torch'] = time.process_time() - start\n"
        "start = time.process_time(); import sae\n"
        "for name in sae.__all__: getattr(sae, name)\n"
        "found['sae'] = time.process_time() - start\n"
        "found['modules'] = sorted({n.split('.')[0] for n in sys.modules})"
    )
    assert not set(found["modules"]) & set(HEAVY)
    assert found["sae"] < 1.0, f"{found['sae']:.2f} s beside torch's {found['torch']:.2f} s"


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
