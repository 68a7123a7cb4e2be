"""DNA, base64 and hexadecimal are what their kind says: each is taken apart again."""

import base64
import hashlib
import random
import re
from itertools import islice

import pytest

from sae.source.corpus_codes import base64_texts, dna, hexadecimal

N = 120
BLOBS = [(f"package/file{i}.so", random.Random(i).randbytes(5000)) for i in range(4)]


def test_dna_is_fasta_mostly_and_letters_of_bases_nearly_all():
    documents = list(islice(dna(random.Random(0)), N))
    fasta = [document for document in documents if document.source == "composed/dna/fasta"]
    assert 0.5 < len(fasta) / N < 0.8
    for document in fasta:
        header, *lines = document.text.rstrip("\n").split("\n")
        assert header.startswith(">")
        sequence = [line for line in lines if not line.startswith(">")]
        assert all(re.fullmatch("[ACGT]+", line) for line in sequence)
        assert len(sequence[0]) in (60, 70, 80)
    for document in documents:
        letters = [c for c in document.text.upper() if c.isalpha()]
        assert sum(c in "ACGT" for c in letters) > 0.85 * len(letters)


def test_dna_has_the_forms_that_a_proxy_misses():
    text = "".join(document.text for document in islice(dna(random.Random(0)), N))
    for form in (r"5'-[ACGT]+-3'", r"[ACGT]{3}-[ACGT]{3}-", r" [acgt]{10} [acgt]{10} ", r"\n[acgt]{60}\n"):
        assert re.search(form, text), form


def test_base64_decodes_to_bytes_of_its_source():
    for document in islice(base64_texts(BLOBS, random.Random(0)), N):
        runs = re.findall(r"(?:[A-Za-z0-9+/]{20,}=*[\"\s]*)+|(?<=base64,)\S+", document.text)
        packed = re.sub(r"[^A-Za-z0-9+/=]", "", max(runs, key=len))
        raw = base64.b64decode(packed[: len(packed) // 4 * 4])
        assert raw[:200] in dict(BLOBS)[document.source]
        assert len(packed) > 0.75 * len(document.text)


def test_base64_leaves_out_runs_of_zeros():
    blobs = [("a", bytes(4000)), ("b", random.Random(0).randbytes(4000))]
    assert {document.source for document in islice(base64_texts(blobs, random.Random(0)), 30)} == {"b"}


def test_hexadecimal_comes_from_the_files():
    known = {
        hashlib.new(name, content[start:]).hexdigest()
        for name in ("md5", "sha1", "sha256", "sha512")
        for _, content in BLOBS
        for start in range(64)
    }
    forms = set()
    for document in islice(hexadecimal(BLOBS, random.Random(0)), N):
        forms.add(document.source.rpartition("/")[2])
        lines = document.text.splitlines()
        if document.source.endswith("/digests"):
            assert all(line.split()[0] in known for line in lines)
        elif document.source.endswith("/dump"):
            raw = b"".join(bytes.fromhex(line[8:]) for line in lines)
            assert any(raw in content for _, content in BLOBS)
        digits = sum(c in "0123456789abcdefABCDEF" for c in document.text)
        assert digits > 0.6 * len(document.text)
    assert forms == {"digests", "dump", "fingerprints"}


@pytest.mark.parametrize("make", [dna, lambda rng: base64_texts(BLOBS, rng), lambda rng: hexadecimal(BLOBS, rng)])
def test_the_seed_decides(make):
    first, again, other = (list(islice(make(random.Random(seed)), 5)) for seed in (0, 0, 1))
    assert first == again != other
