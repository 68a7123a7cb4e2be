"""Dictionaries on disk: the same bits back, by name or path; damage and a full disk told in one sentence."""

import copy
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import sae
from sae import artefact
from sae.dictionary.disk import VARIANTS, dictionary_path, read_dictionary, write_dictionary
from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.errors import ConfigError, StoreError
from sae.provenance import Run
from tests.support.problems import problem


def saved(path):
    weights, x = problem()
    dictionary = TiedBiasDictionary(*weights)
    with artefact.writing(path, Run(kind="dictionary", id="A/1")) as draft:
        write_dictionary(dictionary, draft.path)
    return dictionary, x


def test_round_trip(tmp_path):
    dictionary, x = saved(tmp_path / "A" / "1" / "dictionary")
    loaded = read_dictionary(dictionary_path("A/1", tmp_path))
    assert torch.equal(loaded(x), dictionary(x))
    assert loaded.run.id == "A/1"
    assert dictionary_path(tmp_path / "A" / "1") == dictionary_path(tmp_path / "A" / "1" / "dictionary")


def test_encode_and_decode_equal_the_formulas_in_numpy():
    weights, x = problem()
    W_enc, b_enc, W_dec, b_dec = (np.asarray(w.double()) for w in weights)
    f = np.maximum((np.asarray(x.double()) - b_dec) @ W_enc.T + b_enc, 0)
    dictionary = TiedBiasDictionary(*weights)
    np.testing.assert_allclose(dictionary.encode(x), f, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dictionary(x), f @ W_dec + b_dec, rtol=1e-4, atol=1e-4)


def test_a_flipped_bit_is_noticed(tmp_path):
    saved(tmp_path / "d")
    file = tmp_path / "d" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreError, match="is damaged: sha256"):
        read_dictionary(tmp_path / "d")


def test_a_name_that_is_none_lists_those_that_are(tmp_path):
    saved(tmp_path / "A" / "1" / "dictionary")
    with pytest.raises(StoreError, match=r"no dictionary 'A/7'.*there are: A/1"):
        dictionary_path("A/7", tmp_path)


def test_activations_of_another_width_are_refused():
    weights, _ = problem()
    with pytest.raises(ConfigError, match="width 5 given to a dictionary of d_mlp = 8"):
        TiedBiasDictionary(*weights).encode(torch.zeros(2, 5))


VARIANTS_AND_DTYPES = pytest.mark.parametrize(
    ("variant", "dtype"),
    [(variant, dtype) for variant in VARIANTS.values() for dtype in (torch.float64, torch.float16, torch.bfloat16)],
)


@VARIANTS_AND_DTYPES
def test_floats_of_any_precision_are_computed_in_the_dictionary_s(variant, dtype):
    """As if the caller had cast them; what comes out is in the dictionary's precision, which can itself be another."""
    weights, x = problem()
    dictionary, x, some = variant(*weights), x.to(dtype), torch.tensor([1, 4])
    f = dictionary.encode(x)
    assert f.dtype == torch.float32
    assert torch.equal(f, dictionary.encode(x.float()))
    assert torch.equal(dictionary.encode_only(x, some), dictionary.encode_only(x.float(), some))
    assert torch.equal(dictionary.decode(f.to(dtype)), dictionary.decode(f.to(dtype).float()))
    assert torch.equal(dictionary(x), dictionary(x.float()))
    assert dictionary.to(dtype)(x.float()).dtype == dtype  # which casts the dictionary itself


@pytest.mark.parametrize("variant", VARIANTS.values())
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_what_are_no_floats_is_refused(variant, dtype):
    weights, _ = problem()
    dictionary, some = variant(*weights), torch.tensor([1, 4])
    calls = [dictionary.encode, dictionary, lambda x: dictionary.encode_only(x, some)]
    for call in calls:
        with pytest.raises(ConfigError, match=rf"activations of {dtype}.*x.float\(\)"):
            call(torch.zeros(2, dictionary.d_mlp, dtype=dtype))
    with pytest.raises(ConfigError, match=f"feature activations of {dtype}"):
        dictionary.decode(torch.zeros(2, dictionary.n_features, dtype=dtype))


def test_feature_activations_of_another_width_are_refused():
    weights, _ = problem()
    with pytest.raises(ConfigError, match="feature activations of width 5 given to a dictionary of n_features = 24"):
        TiedBiasDictionary(*weights).decode(torch.zeros(2, 5))


def test_a_full_disk_is_one_message(tmp_path):
    """A limit on the size of files stands for it: safetensors tells of both in an error of its own."""
    program = (
        "import resource, torch\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (20000, {resource.RLIM_INFINITY}))\n"
        "from sae import artefact\nfrom sae.provenance import Run\nfrom sae.dictionary.disk import write_dictionary\n"
        "from sae.dictionary.tied_relu import TiedBiasDictionary\nfrom sae.errors import DiskError\n"
        "z = torch.zeros\n"
        "try:\n"
        f"    with artefact.writing({str(tmp_path / 'd')!r}, Run(kind='dictionary')) as draft:\n"
        "        write_dictionary(TiedBiasDictionary(z(99, 99), z(99), z(99, 99), z(99)), draft.path)\n"
        "except DiskError as error:\n    print('told:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "told: no space left while writing" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [".d.lock"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("W_enc", torch.ones(5, 3, dtype=torch.int64), "W_enc .* is torch.int64; the weights of a dictionary are floats"),
        ("b_dec", torch.tensor([0.0, torch.nan, torch.inf]), r"b_dec .* holds NaN or infinity \(2 of 3\)"),
    ],
)
def test_weights_that_are_none_are_refused(tmp_path, name, value, message):
    weights = {"W_enc": torch.ones(5, 3), "b_enc": torch.zeros(5), "W_dec": torch.ones(5, 3), "b_dec": torch.zeros(3)}
    with artefact.writing(tmp_path / "d", Run(kind="dictionary", code="test")) as draft:
        write_dictionary(TiedBiasDictionary(**weights), draft.path)
        save_file(weights | {name: value}, draft.path / "weights.safetensors")
    with pytest.raises(StoreError, match=message):
        read_dictionary(tmp_path / "d")


def test_a_record_without_digests_is_refused(tmp_path):
    weights = (torch.ones(5, 3), torch.zeros(5), torch.ones(5, 3), torch.zeros(3))
    with artefact.writing(tmp_path / "d", Run(kind="dictionary", code="test")):
        pass  # a record that is whole, of no file
    write_dictionary(TiedBiasDictionary(*weights), tmp_path / "d")
    with pytest.raises(StoreError, match=r"no digest of weights\.safetensors, dictionary\.json"):
        read_dictionary(tmp_path / "d")


@pytest.mark.parametrize("method", ["encode", "decode"])
def test_tensors_without_numbers_or_not_dense_are_refused(tmp_path, method):
    width = {"encode": 3, "decode": 5}[method]
    dictionary = TiedBiasDictionary(torch.ones(5, 3), torch.zeros(5), torch.ones(5, 3), torch.zeros(3))
    for bad in (torch.ones(2, width, device="meta"), torch.ones(2, width).to_sparse()):
        with pytest.raises(ConfigError, match=r"meta device|torch\.sparse_coo"):
            getattr(dictionary, method)(bad)


def test_weights_that_could_not_be_read_again_replace_nothing(tmp_path):
    weights, _ = problem()
    good = TiedBiasDictionary(*weights)
    sae.save(good, tmp_path / "d")
    bad = copy.deepcopy(good)
    bad.W_enc.data[0, 0] = torch.nan
    with pytest.raises(StoreError, match=r"W_enc of the dictionary holds NaN or infinity \(1 of "):
        sae.save(bad, tmp_path / "d")
    assert torch.equal(sae.load(tmp_path / "d").W_enc, good.W_enc)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["d"]
