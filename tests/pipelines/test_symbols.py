"""Transformers over symbols through all stages up to the evaluation: the figures are those of positions chosen by hand.

An adder, whose digits come by chance but for the answer's, and a model over the characters of words, padded to one length.
Counting everything gives figures of digits that nothing predicts, and of padding."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import evaluate, harvest, tokens, train, transformer
from pipelines.common import Stage
from sae.dictionary.disk import read_dictionary
from sae.source.transformer import load_source
from sae.storage.tokens import TokenStore
from tests.import_graph import ROOT

pytestmark = pytest.mark.slow
EQUALS, PAD, LONGEST = 10, 0, 12
SIZES = {
    "transformer": {
        "d_model": 64,
        "d_mlp": 256,
        "n_heads": 4,
        "contexts_per_batch": 128,
        "weight_decay": 0.1,
        "precision": "float32",
    },
    "train": {"n_features": 512, "n_steps": 400, "batch_size": 1024, "l1": 0.5},
    "wandb": {"mode": "disabled"},
    "run": {"device": "cpu", "threads": 1},
}


def sums() -> np.ndarray:
    """a b = s, of two digits each and three of their sum, the units first; every sum once."""
    a, b = np.divmod(np.random.default_rng(0).permutation(10_000), 100)
    digits = [a // 10, a % 10, b // 10, b % 10, np.full(10_000, EQUALS)]
    return np.stack([*digits, (a + b) % 10, (a + b) // 10 % 10, (a + b) // 100], axis=1)


def words() -> np.ndarray:
    """The words of this project's documentation as characters, ended by 1 and padded."""
    text = " ".join(path.read_text(encoding="utf-8").lower() for path in sorted((ROOT / "docs").glob("*.md")))
    found = sorted({word for word in re.findall("[a-z]+", text) if len(word) < LONGEST})
    ids = np.full((len(found), LONGEST), PAD)
    for row, word in zip(ids, found, strict=True):
        row[: len(word) + 1] = [*(ord(char) - ord("a") + 2 for char in word), 1]
    return np.random.default_rng(0).permutation(ids)


CASES = {
    "adder": (sums, {"predicted": [5, 7]}, {"n_tokens": 12_000_000, "learning_rate": 0.003}, 3),
    "words": (words, {"pad": PAD, "bos": True}, {"n_tokens": 2_000_000, "learning_rate": 0.002}, 4),
}
"""Ids, what is said of them, how the transformer is trained, and rows of a context that are harvested."""


@pytest.fixture(params=CASES)
def case(request, tmp_path, monkeypatch):
    """The stages' figures, and the ids of the held-out split with what counts in them by hand."""
    monkeypatch.chdir(tmp_path)
    make, said, trained, per_context = CASES[request.param]
    np.save("ids.npy", make())
    params = {name: dict(values) for name, values in SIZES.items()}
    params["tokens"] = {"source": "ids", "path": "ids.npy", "n_vocab": None, "heldout_fraction": 0.2, **said}
    params["transformer"] |= trained
    params["harvest"] = {"n_rows": 12_000, "positions_per_context": per_context}
    params["evaluate"] = {"n_bootstrap": 20}
    for name, stage in (
        ("tokens", tokens),
        ("transformer", transformer),
        ("harvest", harvest),
        ("train", train),
        ("evaluate", evaluate),
    ):
        stage.main(Stage(name, params))
    metrics = json.loads(Path("reports/evaluate/metrics.json").read_text())
    split = TokenStore.open("data/tokens").split("heldout")
    ids = torch.from_numpy(split[0 : split.n_contexts].tokens.astype(np.int64))
    counted = torch.zeros(ids[:, 1:].shape, dtype=torch.bool)
    if request.param == "adder":
        counted[:, 4:7] = True
    else:
        for row, context in zip(counted, ids.tolist(), strict=True):
            row[: context.index(1)] = True  # BOS, the word and its end; then comes padding
    return request.param, metrics, ids, counted


def test_the_figures_are_those_of_positions_chosen_by_hand(case):
    name, metrics, ids, counted = case
    source, dictionary = load_source("data/A/transformer"), read_dictionary("data/A/1/dictionary")
    at = torch.nn.functional.pad(counted, (0, 1))

    def replaced(x):
        changed = x.clone()
        changed[at] = dictionary(x[at])
        return changed

    def loss(replace=None, where=counted):
        return float(source.loss(ids, replace)[where].double().mean())

    clean, zero, spliced = loss(), loss(torch.zeros_like), loss(replaced)
    everything = torch.ones_like(counted)
    told, right = metrics["transformer"], (source.logits(ids)[:, :-1].argmax(-1) == ids[:, 1:])[counted].double().mean()
    print(
        f"\n{name}: {right:.1%} of what counts is right; loss {told['loss_clean']} (by hand {clean:.6g}; counting everything "
        f"{loss(where=everything):.4g}), zero-ablated {told['loss_zero_ablated']} (by hand {zero:.6g}), spliced "
        f"{told['loss_reconstructed']} (by hand {spliced:.6g}), recovered {told['loss_recovered_zero']} "
        f"(by hand {(zero - spliced) / (zero - clean):.6g})"
    )
    assert told["n_predicted"] == int(counted.sum())
    assert told["loss_clean"] == pytest.approx(clean, rel=1e-4)
    assert told["loss_zero_ablated"] == pytest.approx(zero, rel=1e-4)
    assert told["loss_reconstructed"] == pytest.approx(spliced, rel=1e-4)
    assert told["loss_recovered_zero"] == pytest.approx((zero - spliced) / (zero - clean), rel=1e-3)
    assert 0 < told["loss_recovered_zero"] <= 1
    assert loss(where=everything) > clean + 0.3
    if name == "adder":
        assert right > 0.95
