"""Masked cosines beside slow ones from dense arrays; trees and children of a known split; the map beside numpy's SVD."""

import dataclasses

import numpy as np
import pytest
import torch

from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.errors import ConfigError, CorpusError
from sae.splitting import masked
from sae.splitting.graph import SplittingConfig, find_splitting, summary
from sae.splitting.layout import layout_of, neighbour_distances, principal, stacked_layout
from sae.splitting.tree import largest_trees, tree_of
from tests.features.toy import dense, random_dictionary
from tests.support.chosen import assert_largest
from tests.support.stores import make_tokens
from tests.support.toy_source import ToySource

CONFIG = SplittingConfig(n_tokens=320, min_active=4, contexts_per_batch=3)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Three dictionaries of one transformer; feature 3 of the first and 2 of the second never fire."""
    tokens = make_tokens(tmp_path_factory.mktemp("toy") / "tokens")
    made = [(f"A/{k}", random_dictionary(n_features=8 + 6 * k, seed=k)) for k in range(3)]
    made[0][1].b_enc[3] = made[1][1].b_enc[2] = -1e3
    return ToySource(), made, tokens


@pytest.fixture(scope="module")
def found(toy):
    return find_splitting(*toy, CONFIG)


def activations(toy, roll=0):
    source, made, tokens = toy
    contexts = tokens.split("heldout")[0:20]
    contexts = contexts._replace(tokens=np.roll(contexts.tokens, -roll, axis=0))
    return [dense(source, dictionary, contexts)[1] for _, dictionary in made]


def slow(f, g):
    """One pair after the other: the larger of the cosines over the tokens of the one and of the other."""
    result = np.zeros((f.shape[1], g.shape[1]))
    for i, a in enumerate(f.T):
        for j, b in enumerate(g.T):
            if (a * b).any() and min((a > 0).sum(), (b > 0).sum()) >= 4:
                over = [a[on] @ b[on] / np.linalg.norm(a[on]) / np.linalg.norm(b[on]) for on in (a > 0, b > 0)]
                result[i, j] = max(over)
    return result


@pytest.mark.parametrize("pairs", [2**20, 30])
def test_masked_cosines_are_the_slow_ones(toy, found, pairs, monkeypatch):
    monkeypatch.setattr(masked, "BLOCK_PAIRS", pairs)
    here = find_splitting(*toy, CONFIG)
    f = activations(toy)
    roll = next(
        by for by in range(20) if np.allclose(slow(f[0], activations(toy, by)[1]).max(0), here.sizes[0].best_shuffled, atol=1e-5)
    )
    assert 5 <= roll < 15
    for k, sizes in enumerate(here.sizes):
        expected, null = slow(f[k], f[k + 1]), slow(f[k], activations(toy, roll)[k + 1])
        i, j = np.nonzero(expected > 0.4)
        assert list(zip(sizes.parent, sizes.child, strict=True)) == list(zip(i, j, strict=True))
        np.testing.assert_allclose(sizes.cosine, expected[i, j], atol=1e-6)
        assert sizes.cosine.max() <= 1
        np.testing.assert_allclose(sizes.best_cosine, expected.max(0), atol=1e-6)
        has = expected.any(0)
        assert ((sizes.best >= 0) == has).all()
        np.testing.assert_allclose(expected[sizes.best[has], np.flatnonzero(has)], expected.max(0)[has], atol=1e-6)
        assert sizes.n_edges_shuffled == (null > 0.4).sum()
    assert found.sizes[0].n_edges_shuffled == here.sizes[0].n_edges_shuffled
    assert 3 not in found.sizes[0].counted[0]
    assert 2 not in found.sizes[0].counted[1]


def test_a_planted_split_is_found(toy):
    """Each feature of the small one is three in the larger, all of them its children and no other's."""
    source, made, tokens = toy
    small = made[1][1]
    order = np.repeat(np.arange(small.n_features), 3)
    large = TiedBiasDictionary(small.W_enc[order], small.b_enc[order], small.W_dec[order] / 3, small.b_dec)
    found = find_splitting(source, [("A/1", small), ("A/9", large)], tokens, CONFIG)
    sizes = found.sizes[0]
    alive = np.isin(order, sizes.counted[0])
    np.testing.assert_array_equal(sizes.best[alive], order[alive])
    np.testing.assert_allclose(sizes.best_cosine[alive], 1, atol=1e-6)
    row = summary(found)[0]
    assert row["children"] == {"0": 0, "1": 0, "2": 0, "3": len(sizes.counted[0]), "4": 0, "5 or more": 0}
    assert row["vector_cosine_to_parent"] == pytest.approx(1, abs=1e-6)
    assert row["vector_cosine_to_other_parent"] < 0.6
    assert row["share_with_parent"] == 1
    tree = tree_of(found, 5)
    assert [child.id for child in tree.children] == ["A/9/15", "A/9/16", "A/9/17"]
    assert tree.n_below == 3
    assert tree.lines()[1].startswith("    1.00  A/9/15  '<")


def test_trees_go_down_to_the_last_dictionary(found):
    tree = max(largest_trees(found, 3), key=lambda tree: tree.n_below)
    assert tree.n_below == max(tree_of(found, int(i)).n_below for i in found.sizes[0].counted[0])
    below = [tree]
    ids = {0: [], 1: [], 2: []}
    while below:
        node = below.pop()
        level, number = (int(part) for part in node.id.split("/")[1:])
        ids[level].append(number)
        below += node.children
    for level in (0, 1):
        expected = [
            c for c, p in enumerate(found.sizes[level].best) if p in ids[level] and found.sizes[level].best_cosine[c] > 0.4
        ]
        assert sorted(ids[level + 1]) == expected
    on = activations_of(found, 0, int(tree.id.split("/")[-1]))
    ids = [int(token[1:-1]) for token in tree.tokens]
    assert_largest(ids, on, min(3, np.count_nonzero(on)), atol=1e-5 * on.max())


def activations_of(found, level, feature):
    place, value = found.text.firings[level].of(feature)
    total = np.zeros(50)
    for where, size in zip(place, value, strict=True):
        total[found.text.tokens.ravel()[where]] += size
    return total


def test_the_plane_of_most_variance_is_that_of_the_svd():
    rows = torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.arange(1.0, 8)
    place, share = principal(rows)
    u, s, _ = np.linalg.svd((rows - rows.mean(0)).numpy(), full_matrices=False)
    np.testing.assert_allclose(abs(place), abs(u[:, :2] * s[:2]), atol=1e-9)
    assert share == pytest.approx((s[:2] ** 2).sum() / (s**2).sum())
    layout = layout_of(rows.float() * 7, "pca", 0, 40)
    np.testing.assert_allclose(layout.place, layout_of(rows.float(), "pca", 0, 40).place, atol=1e-5)  # rows are scaled
    true, null = neighbour_distances(place, np.array([1, 2]), np.array([0, 0]), np.random.default_rng(0))
    np.testing.assert_allclose(true, [np.hypot(*(place[1] - place[0])), np.hypot(*(place[2] - place[0]))])
    np.testing.assert_allclose(true, null)


def test_umap_needs_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(ConfigError, match=r"pip install 'sae-pipeline\[map\]'"):
        layout_of(torch.randn(30, 5), "umap", 0, 30)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_umap_and_its_clusters_keep_groups_together():
    pytest.importorskip("umap")
    pytest.importorskip("sklearn")
    g = torch.Generator().manual_seed(0)
    group = torch.arange(120) // 20
    rows = torch.randn(6, 30, generator=g)[group] + 0.2 * torch.randn(120, 30, generator=g)
    layout = layout_of(rows, "umap", 0, 120)
    assert layout.place.shape == (120, 2)
    for k in range(6):
        inside = layout.cluster[group == k]
        others = set(layout.cluster[group != k].tolist())
        assert (set(inside.tolist()) - {-1}).isdisjoint(others - {-1})
        assert (inside >= 0).mean() > 0.5
    np.testing.assert_array_equal(layout.place, layout_of(rows, "umap", 0, 120).place)


def test_what_cannot_be_done_says_so(toy, found):
    source, made, tokens = toy
    with pytest.raises(ConfigError, match="two dictionaries or more"):
        find_splitting(source, made[:1], tokens, CONFIG)
    with pytest.raises(CorpusError, match="cannot be shuffled"):
        find_splitting(source, made, tokens, dataclasses.replace(CONFIG, n_tokens=1))
    with pytest.raises(ConfigError, match="no number 99"):
        tree_of(found, 99)
    with pytest.raises(ConfigError, match="A/0/3 fires on 0 of 300 tokens"):
        tree_of(found, 3)
    with pytest.raises(ConfigError, match=r"'dictionaries' = \['A/1'\]"):
        SplittingConfig(dictionaries=["A/1"])
    with pytest.raises(ConfigError, match="'layout' = 'tsne'"):
        SplittingConfig(layout="tsne")


def test_dead_features_are_nowhere_on_the_map_and_move_no_other():
    narrow, wide = random_dictionary(20, seed=1), random_dictionary(30, seed=2)
    wide.W_dec[:10] = 1.0  # all alike, as a cloud of dead ones is
    counted = [np.arange(20), np.arange(10, 30)]
    found = stacked_layout([narrow, wide], counted, "pca", 0)
    assert found.place.shape == (50, 2)
    assert np.isnan(found.place[20:30]).all()
    expected = layout_of(torch.cat([narrow.W_dec, wide.W_dec[10:]]), "pca", 0, 30).place
    np.testing.assert_array_equal(np.delete(found.place, np.arange(20, 30), axis=0), expected)
