"""Competing models of characters, against a dictionary of counts, every path of states, and text that is known."""

import base64
from collections import Counter, defaultdict
from itertools import product

import numpy as np
import pytest

from sae.errors import ConfigError
from sae.proxies import competing
from sae.proxies.competing import ByteModel, Competing, Spelling, evenly, filtered
from sae.proxies.sampling import Statistics
from sae.storage.tokens import Contexts

WORDS = b"the quick brown fox jumps over the lazy dog and runs away from the hounds "


def contexts(rows, document=None):
    tokens = np.array(rows, np.uint16)
    document = np.zeros(tokens.shape, np.int32) if document is None else np.array(document, np.int32)
    return Contexts.whole(tokens, document, np.zeros(tokens.shape, np.int16))


def witten_bell(texts: list[bytes], order: int):
    """The definition, history by history."""
    after = defaultdict(Counter)
    for text in texts:
        padded = bytes(order - 1) + text
        for i in range(order - 1, len(padded)):
            for k in range(1, order + 1):
                after[k, padded[i - k + 1 : i]][padded[i]] += 1

    def p(history: bytes, byte: int, k: int) -> float:
        if k == 0:
            return 1 / 256
        seen = after.get((k, history[len(history) - k + 1 :]), Counter())
        below = p(history, byte, k - 1)
        return (seen[byte] + len(seen) * below) / (seen.total() + len(seen)) if seen else below

    return p


@pytest.mark.parametrize("order", [1, 2, 4])
def test_the_byte_model_is_witten_and_bells(order):
    vocabulary = [b"a", b"ab", b"", b"bca", b"\xff", b" "]
    rng = np.random.default_rng(order)
    document = np.sort(rng.integers(-1, 3, (6, 30)), axis=1)
    sample, spelling = contexts(rng.integers(0, 5, (6, 30)), document), Spelling(vocabulary)
    runs = [b"".join(vocabulary[t] for t in tokens[d == k]) for tokens, d in zip(*sample[:2], strict=True) for k in (0, 1, 2)]
    model, p = ByteModel(spelling.read(sample).windows(order), order), witten_bell(runs, order)
    text = spelling.read(contexts([[0, 2, 5, 3, 1, 4]]))
    whole = bytes(order - 1) + b"".join(vocabulary[t] for t in (0, 2, 5, 3, 1, 4))
    wanted = [np.log(p(whole[i : i + order - 1], whole[i + order - 1], order)) for i in range(len(whole) - order + 1)]
    np.testing.assert_allclose(model.log(text.windows(order)), wanted, rtol=1e-12)
    sums = text.sum_by_token(model.log(text.windows(order)))
    np.testing.assert_allclose(sums, [wanted[0], 0, wanted[1], sum(wanted[2:5]), sum(wanted[5:7]), wanted[7]], rtol=1e-12)


def test_filtering_is_the_sum_over_all_paths(monkeypatch):
    monkeypatch.setattr(competing, "P_BEGINS", 0.1)
    monkeypatch.setattr(competing, "P_STAYS", 0.7)
    log_p = np.random.default_rng(0).normal(0, 2, (1, 4, 3))
    goes_on = np.array([[False, True, True, False]])
    found = filtered(log_p, goes_on)
    prior = np.array([1, 0.1 / 0.3, 0.1 / 0.3]) / (1 + 0.2 / 0.3)
    step = np.array([[0.8, 0.1, 0.1], [0.3, 0.7, 0], [0.3, 0, 0.7]])
    np.testing.assert_allclose(prior @ step, prior, err_msg="what the chain comes to")
    for end in (1, 2, 3):
        joint = np.zeros(3)
        for path in product(range(3), repeat=end):
            p = prior[path[0]] * np.exp(log_p[0, 0, path[0]])
            for j in range(1, end):
                p *= step[path[j - 1], path[j]] * np.exp(log_p[0, j, path[j]])
            joint[path[-1]] += p
        np.testing.assert_allclose(found[0, end - 1], joint / joint.sum(), rtol=1e-9)
    anew = prior * np.exp(log_p[0, 3])
    np.testing.assert_allclose(found[0, 3], anew / anew.sum(), rtol=1e-9)


def test_an_alphabet_in_closed_form():
    log_p = evenly("01", [b"0", b"1", b"01", b" ", b"a", b"\xd8", b"0 a"])
    inside, between, outside = np.log(0.95 / 2), np.log(0.05 / len(competing.SEPARATORS)), np.log(1e-10)
    wanted = [inside, inside, 2 * inside, between, outside, outside, inside + between + outside]
    np.testing.assert_allclose(log_p, wanted)


@pytest.mark.parametrize(("kind", "text"), [("base64", "base64"), ("hexadecimal", "hex"), ("hexadecimal", "HEX"), ("dna", "dna")])
def test_each_kind_finds_its_own_text_and_no_other(kind, text):
    """Single bytes as tokens; the corpus is English with some names."""
    rng, vocabulary = np.random.default_rng(0), [bytes([b]) for b in range(256)]
    noise = rng.integers(0, 256, 3000, dtype=np.uint8).tobytes()
    texts = {
        "base64": base64.b64encode(noise)[:60],
        "hex": noise.hex().encode()[:60],
        "HEX": noise.hex(" ").upper().encode()[:60],
        "dna": bytes(rng.choice(list(b"ACGT"), 60).tolist()),
        "words": WORDS[:60],
        "names": b"getElementById createTextNode appendChild HTMLInputElement ABC",
    }
    sample = contexts([[*each[:60]] for each in (*[WORDS, WORDS[7:] + WORDS] * 20, texts["names"])])
    score = Competing(kind=kind).scorer(Statistics(vocabulary, np.zeros(256), sample))
    for name, each in texts.items():
        settled = score(contexts([[*each[:60]]]))[0, 30:]
        mine = name == text or (kind == "hexadecimal" and name in ("hex", "HEX"))
        assert ((settled > 0) == mine).all(), (name, settled)


def test_scores_begin_anew_and_spare_bos():
    vocabulary = [bytes([b]) for b in range(256)]
    score = Competing(kind="dna").scorer(Statistics(vocabulary, np.zeros(256), contexts([[*WORDS]])))
    dna = [0, *b"ACGTACGTTAGC", *b"ACGTACGTTAGC"]
    scores = score(contexts([dna], [[-1, *[0] * 12, *[1] * 12]]))[0]
    assert np.isnan(scores[0])
    np.testing.assert_allclose(scores[1:13], scores[13:], err_msg="another document knows nothing of the one before")


def test_bad_ones_are_refused():
    with pytest.raises(ConfigError, match="there are base64, hexadecimal, dna"):
        Competing(kind="rot13")
    with pytest.raises(ConfigError, match="'order' = 9"):
        Competing(kind="dna", order=9)
