"""The proxy for scripts against the definition tried on every substring, and against text taken apart by Python."""

import math

import numpy as np
import pytest

from sae.errors import ConfigError
from sae.proxies.hypotheses import HYPOTHESES
from sae.proxies.sampling import Statistics
from sae.proxies.scripts import FLOOR, Script, _characters_in, measure_fractions
from sae.storage.tokens import Contexts

ARABIC = HYPOTHESES["arabic"].proxy
TEXT = "سلام дом ab עברית 中文 كتاب été, ا 𝄞 ݐب"


def random_tokens(seed: int, text: str, n_contexts: int, length: int) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Text cut into random pieces of 1 to 5 bytes, as a byte-level BPE might; BOS at position 0; documents of random lengths."""
    rng = np.random.default_rng(seed)
    data = text.encode() * 400
    vocabulary: dict[bytes, int] = {}
    tokens = np.zeros((n_contexts, length), dtype=np.int64)
    place = 0
    for c in range(n_contexts):
        for j in range(length):
            size = int(rng.integers(1, 6))
            piece = data[place : place + size] if j else b"<bos>"
            place = (place + size) % (len(data) - 8)
            tokens[c, j] = vocabulary.setdefault(piece, len(vocabulary))
    document = np.sort(rng.integers(0, 3, (n_contexts, length)), axis=1)
    document[:, 0] = -1
    return list(vocabulary), tokens, document


def in_blocks(text: str, script: Script) -> bool:
    return all(any(first <= ord(c) <= last for first, last in script.blocks) for c in text)


def whole(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None


def fractions_by_hand(vocabulary, tokens, document, script) -> tuple[dict[int, float], float]:
    """Each token in its place: decode the run of text around it and look at the characters that its bytes touch."""
    seen: dict[int, list[bool]] = {}
    for c in range(len(tokens)):
        for d in sorted(set(document[c].tolist()) - {-1}):
            ids = tokens[c][document[c] == d]
            data = b"".join(vocabulary[t] for t in ids)
            decoded = data.decode("utf-8", errors="surrogateescape")  # bytes of a cut character become lone surrogates
            of_byte = [ch for ch in decoded for _ in range(1 if 0xDC80 <= ord(ch) <= 0xDCFF else len(ch.encode()))]
            place = 0
            for t in ids:
                touched = of_byte[place : place + len(vocabulary[t])]
                place += len(touched)
                if not any(0xDC80 <= ord(ch) <= 0xDCFF for ch in touched):
                    seen.setdefault(int(t), []).append(in_blocks("".join(touched), script))
    n, hits = sum(map(len, seen.values())), sum(map(sum, seen.values()))
    return {t: sum(flags) / len(flags) for t, flags in seen.items()}, (hits + 0.5) / (n + 1)


def every_substring(vocabulary, tokens, document, script, of_token, overall) -> np.ndarray:
    scores = np.full(tokens.shape, np.nan)
    for c in range(tokens.shape[0]):
        for j in range(tokens.shape[1]):
            if document[c, j] == -1:
                continue
            best = FLOOR
            for start in range(j + 1):
                if len(set(document[c, start : j + 1].tolist())) > 1:
                    continue
                text = whole(b"".join(vocabulary[t] for t in tokens[c, start : j + 1]))
                if text is not None:
                    best = max(best, 1.0 if in_blocks(text, script) else FLOOR)
                elif start == j:
                    best = max(best, of_token.get(int(tokens[c, j]), 0.0))
            scores[c, j] = math.log(best / overall)
    return scores


@pytest.mark.parametrize("name", ["arabic", "hebrew"])
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_are_the_best_of_all_substrings(name: str, seed: int):
    script = HYPOTHESES[name].proxy
    vocabulary, tokens, document = random_tokens(seed, TEXT, 60, 16)
    of_token, overall = fractions_by_hand(vocabulary, tokens, document, script)
    fractions = measure_fractions(Contexts.whole(tokens, document, document), vocabulary, script.blocks)
    assert fractions.overall == pytest.approx(overall, rel=1e-12)
    np.testing.assert_allclose(fractions.of_token, [of_token.get(t, 0.0) for t in range(len(vocabulary))], rtol=1e-12)
    assert 0.05 < overall < 0.5
    assert any(0 < of_token.get(t, 0) < 1 for t, piece in enumerate(vocabulary) if whole(piece) is None)
    score = script.scorer(Statistics(vocabulary, np.zeros(len(vocabulary)), Contexts.whole(tokens, document, document)))
    wanted = every_substring(vocabulary, tokens, document, script, of_token, overall)
    np.testing.assert_allclose(score(Contexts.whole(tokens, document, document)), wanted, rtol=1e-9)
    levels = np.unique(wanted[~np.isnan(wanted)])
    assert levels[0] == pytest.approx(math.log(FLOOR / overall))
    assert levels[-1] == pytest.approx(-math.log(overall))


def test_a_character_in_two_tokens_counts_when_it_is_whole():
    """U+062B is \\xd8\\xab: the first byte is as Arabic as its occurrences were, the second completes a character."""
    vocabulary = [b"\xd8", b"\xab", b"\xc2", b"x", "ثم".encode(), b" "]
    # Of four \xd8 all are Arabic; of four \xab three are (the fourth ends U+00AB, a quotation mark).
    tokens = np.array([[0, 1, 0, 1, 0, 1, 2, 1, 3, 0, 3, 4, 5, 4]])
    document = np.zeros_like(tokens)
    score = ARABIC.scorer(Statistics(vocabulary, np.zeros(6), Contexts.whole(tokens, document, document)))
    # The \xd8 before an x is no character, so it is left out: 13 usable tokens, of them 6 bytes of ث and twice ثم.
    p = (8 + 0.5) / (13 + 1)
    text = np.array([[0, 1, 1, 2, 1, 4, 5, 4]])
    got = score(Contexts.whole(text, np.zeros_like(text), np.zeros_like(text)))[0] + math.log(p)
    low = math.log(FLOOR)
    np.testing.assert_allclose(got, [0.0, 0.0, math.log(3 / 4), low, math.log(3 / 4), 0.0, low, 0.0], atol=1e-12)


def test_characters_are_found_for_all_lengths():
    data = np.frombuffer("aéا中𝄞".encode(), dtype=np.uint8)
    known, inside = _characters_in(data, np.zeros(len(data), dtype=np.int64), ((0x1D11E, 0x1D11E), (0xE9, 0xE9), (0x61, 0x61)))
    assert known.all()
    assert inside.tolist() == [True, True, True, False, False, False, False, False, True, True, True, True]


def test_characters_cut_at_the_edge_of_a_run_are_unknown():
    data = np.frombuffer("اا".encode(), dtype=np.uint8)
    known, _ = _characters_in(data, np.array([0, 0, 0, 1]), ARABIC.blocks)
    assert known.tolist() == [True, True, False, False]


def test_absent_script_still_has_a_probability():
    vocabulary = [b"a", b"\xd8\xa7"]
    sample = Contexts.whole(np.zeros((1, 9), dtype=np.int64), np.zeros((1, 9), dtype=np.int64), np.zeros((1, 9), dtype=np.int64))
    scores = ARABIC.scorer(Statistics(vocabulary, np.zeros(2), sample))(
        Contexts.whole(np.array([[0, 1]]), np.array([[0, 0]]), np.array([[0, 0]]))
    )
    np.testing.assert_allclose(scores, [[math.log(FLOOR / 0.05), math.log(1 / 0.05)]])


def test_blocks_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match="first <= last"):
        Script(blocks=((0x6FF, 0x600),))
