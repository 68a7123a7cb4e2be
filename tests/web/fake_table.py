"""A FeatureTable in miniature, filled with tokens that would break a careless page."""

import numpy as np

from sae.features.table import COLUMNS, FeatureTable, TableInfo
from sae.provenance import Run

HOSTILE = [
    b"<script>document.title='owned'</script>",
    b"</script><script>document.title='owned'</script>",
    b"<!--<script>",
    b"]]>",
    b"&lt;",
    b"&amp;&nbsp;",
    b"\"'`${1}\\",
    b"<img src=x onerror=document.title='owned'>",
    b"javascript:document.title='owned'",
    "مرحبا".encode(),
    "שלום".encode(),
    "\u202eevil\u202c".encode(),
    "\u2067x\u2069".encode(),
    "\u2028\u2029".encode(),
    b"\x00",
    b"\x1b[31m",
    b"\x7f\x0b",
    b"\xed\xa0\x80",  # a surrogate's half, in CESU form
    b"\xc0\xaf",  # an overlong slash
    b"\xff\xfe",
    b"\xf4\x90\x80\x80",  # over U+10FFFF
    b" \xd8",
    "a\u200bb\u200d\ufeff".encode(),
    "\u00a0\u3000".encode(),
    "e\u0301".encode(),
    "\ufe0f".encode(),
    "日本語".encode(),
    b"\t\n\r\n  ",
    b"",
    b"__proto__",
    b"constructor",
]
EMOJI = [bytes([byte]) for byte in "👩".encode()] + [b"\xd8", b"\xa7", b" \xd9\x85\xd8"]
"""An emoji in four tokens, an Arabic letter in two; the last ends within a letter."""
PLAIN = [f" word{i}".encode() for i in range(40)]
VOCABULARY = HOSTILE + EMOJI + PLAIN
KINDS = ("english", "arabic", "</script>kind")
EMPTY, DEAD = 4, 3
N_EXAMPLES, WINDOW, N_TOKENS = 12, 4, 5_000_000


def make(n_features: int = 10, seed: int = 0) -> FeatureTable:
    """Feature 3 is dead, feature 4 ultralow with a single example, the others full."""
    rng = np.random.default_rng(seed)
    n_vocab, (f, e, w) = len(VOCABULARY), (n_features, N_EXAMPLES, 2 * WINDOW + 1)
    n_active = rng.integers(20, 100_000, f)
    histogram = rng.multinomial(1, np.ones(50) / 50, size=f) + 1
    tokens = rng.integers(0, n_vocab, (f, e, w)).astype(np.int32)
    tokens[:, :, -1] = -1
    tokens[0, 0, :8] = [VOCABULARY.index(part) for part in (b" word1", *EMOJI[:4], b"\xd8", b"\xa7", b" word2")]
    activations = (rng.random((f, e, w)) * (rng.random((f, e, w)) < 0.3)).astype(np.float16)
    activations[:, :, 4] = 2 + rng.random((f, e)).astype(np.float16)
    activations[:, :, -1] = 0
    interval = np.tile(np.array([0] * 4 + [1, 1, 2, 2, 3, 4, 5, 5], dtype=np.int8), (f, 1))
    n_active[DEAD], n_active[EMPTY] = 0, 1
    interval[DEAD], interval[EMPTY, 1:] = -1, -1
    tokens[interval < 0] = -1
    activations[interval < 0] = 0
    histogram[DEAD] = 0
    peaks = activations.astype(np.float32).max(2)
    kind_counts = np.stack([n_active - n_active // 4, n_active // 4, np.zeros(f, int)], 1)
    logits = -np.sort(-rng.normal(size=(f, 40)).astype(np.float32), 1)
    ids = np.stack([rng.permutation(n_vocab)[:40] for _ in range(f)]).astype(np.int32)
    neurons = rng.integers(0, 512, (f, 5)).astype(np.int32)
    values = -np.sort(-rng.random((f, 5)).astype(np.float32), 1)
    place = rng.integers(0, 70_000, (f, e)).astype(np.int32)
    columns = {
        "n_active": n_active,
        "density": n_active / N_TOKENS,
        "histogram": histogram,
        "kind_counts": kind_counts,
        "max_activation": peaks.max(1),
        "mean_activation": peaks.max(1) / 2,
        "encoder_bias": rng.normal(size=f).astype("f4"),
        "encoder_decoder_cosine": rng.random(f).astype("f4"),
        "example_tokens": tokens,
        "example_activations": activations,
        "example_interval": interval,
        "example_peak": peaks,
        "example_context": place,
        "example_position": place % 128,
        "example_document": place // 3,
        "logit_top_ids": ids[:, :20],
        "logit_top_values": logits[:, :20],
        "logit_bottom_ids": ids[:, :-21:-1],
        "logit_bottom_values": logits[:, :-21:-1],
        "logit_histogram": histogram + 1,
        "logit_edges": np.tile(np.array([-3, 4], "f4"), (f, 1)),
        "neuron_correlated_ids": neurons,
        "neuron_correlated_values": values,
        "feature_correlated_ids": np.stack([(np.arange(f) + k) % f for k in range(1, 6)], 1),
        "feature_correlated_values": values,
        "other_correlated_ids": rng.integers(0, 512, (f, 5)),
        "other_correlated_values": values / 2,
        "neuron_coefficient_ids": neurons[:, ::-1],
        "neuron_coefficient_values": -values,
        "participation_ratio": 1 + 40 * rng.random(f),
        "ablation_loss": np.where(n_active > 0, rng.normal(size=f) / 10, np.nan),
        "n_ablated": n_active - n_active // 100,
        "n_neurons_above_tenth": rng.integers(0, 60, f).astype(np.int32),
    }
    info = TableInfo(
        n_tokens=N_TOKENS,
        n_contexts=N_TOKENS // 127,
        kinds=KINDS,
        kind_tokens=(4_000_000, 999_000, 1000),
        window=WINDOW,
        n_top=4,
        n_intervals=5,
        n_logit_vocabulary=n_vocab,
        inverse_scale=1.0,
        other="A/0",
    )
    cast = {name: np.asarray(values).astype(COLUMNS[name].dtype) for name, values in columns.items()}
    return FeatureTable(cast, info, list(VOCABULARY), Run(kind="features", id="A/1"))
