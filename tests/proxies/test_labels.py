"""Hypotheses that label tokens, against Python's own search through the whole text."""

import re

import numpy as np
import pytest

from sae.config import build
from sae.errors import ConfigError
from sae.proxies.hypotheses import ProxiesConfig
from sae.proxies.labels import OfKind, Pattern, strings
from sae.proxies.sampling import Statistics
from sae.storage.tokens import Contexts

VOCABULARY = [b"", b"a", b"b@", b"@c", "é".encode(), b"\xc3", b"\xa9", b" ", b"12", b"3"]
NOTHING = Contexts.whole(*[np.zeros((0, 4), np.int64)] * 3)


def statistics(kinds=()):
    return Statistics(VOCABULARY, np.zeros(len(VOCABULARY)), NOTHING, kinds)


def label(proxy, tokens, document, kind=None, kinds=()):
    tokens, document = np.array(tokens, np.uint16), np.array(document, np.int32)
    kind = np.zeros(tokens.shape, np.int16) if kind is None else np.array(kind, np.int16)
    return proxy.scorer(statistics(kinds))(Contexts.whole(tokens, document, kind))


@pytest.mark.parametrize("expression", [r"\w+@\w+", r"[0-9]+", "é", r"(?<= )a", "\udcc3", "a b"])
def test_a_pattern_labels_the_tokens_that_its_matches_touch(expression):
    """Character by character over random text, whole documents at a time."""
    rng = np.random.default_rng(0)
    tokens, document = rng.integers(0, len(VOCABULARY), (20, 40)), np.sort(rng.integers(-1, 4, (20, 40)), axis=1)
    found = label(Pattern(expression=expression), tokens, document)
    wanted, n_yes = np.where(document < 0, np.nan, -1.0), 0
    for c in range(20):
        for d in range(4):
            places = np.flatnonzero(document[c] == d)
            texts = [VOCABULARY[t] for t in tokens[c, places]]
            whole = b"".join(texts).decode("utf-8", errors="surrogateescape")
            owner = [place for place, text in zip(places, texts, strict=True) for _ in text]
            for match in re.finditer(expression, whole):
                first = len(whole[: match.start()].encode("utf-8", errors="surrogateescape"))
                last = len(whole[: match.end()].encode("utf-8", errors="surrogateescape"))
                wanted[c, owner[first:last]] = 1.0
                n_yes += 1
    np.testing.assert_array_equal(found, wanted)
    assert n_yes > 0


def test_strings_stand_as_they_are():
    found = label(strings("b@", "1"), [[2, 3, 8, 9, 1]], [[0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(found, [[1, -1, 1, -1, -1]])
    np.testing.assert_array_equal(label(strings("."), [[1, 2]], [[0, 0]]), [[-1, -1]])


def test_a_kind_of_document():
    found = label(OfKind(kinds=("b", "c")), [[1, 1, 1, 1]], [[-1, 0, 1, 2]], [[-1, 0, 1, 2]], ("a", "b", "c"))
    np.testing.assert_array_equal(found, [[np.nan, -1, 1, 1]])
    with pytest.raises(ConfigError, match=r"no documents of kind \['d'\]; there are a, b"):
        OfKind(kinds=("d", "a")).scorer(statistics(("a", "b")))


def test_own_hypotheses_are_read_strictly():
    own = {"mail": {"pattern": "@"}, "x": {"strings": ["a"], "kinds": ["k"]}, "y": {"characters": "ab"}, "z": {"kinds": ["k"]}}
    config = build(ProxiesConfig, {"hypotheses": ["dna"], "own": own}, "proxies")
    assert [(h.name, type(h.proxy).__name__, h.kinds) for h in config.chosen()][1:] == [
        ("mail", "Pattern", ()), ("x", "Pattern", ("k",)), ("y", "Alphabet", ()), ("z", "OfKind", ("k",)),
    ]  # fmt: skip
    for bad, message in (
        ({"e": {}}, "'e' must have one of pattern, strings, characters and kinds; it has 0"),
        ({"e": {"pattern": "a", "strings": ["b"]}}, "it has 2"),
        ({"e": {"patern": "a"}}, "did you mean 'pattern'"),
        ({"e": {"pattern": "("}}, "pattern '\\('"),
        ({"e": {"pattern": "a*"}}, "matches an empty string"),
        ({"dna": {"pattern": "a"}}, "each one once"),
        ({"a/b": {"pattern": "a"}}, "a name of letters"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(ProxiesConfig, {"hypotheses": ["dna"], "own": bad}, "proxies")
