"""The ablation study beside single ablations over all contexts, put together by hand."""

import numpy as np
import pytest
import torch

from sae.causal.ablation import ablation_study, like_density, random_direction
from sae.causal.interventions import ablation_effect
from sae.errors import ConfigError
from tests.features.toy import setup

FEATURE, CONTROL = 7, 11


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    source, dictionary, tokens = setup(tmp_path_factory.mktemp("causal"))
    dictionary.b_enc[[FEATURE, CONTROL]] -= 1.5  # rare, so that whole contexts are left out
    return source, dictionary, tokens.split("heldout")


def test_the_study_is_what_single_ablations_say(made):
    source, dictionary, split = made
    tokens = torch.from_numpy(split[0:20].tokens.astype(np.int64))
    study = ablation_study(source, dictionary, split, FEATURE, CONTROL, n_tokens=10**6, contexts_per_batch=3, seed=5)
    direction = random_direction(dictionary.W_dec[FEATURE], 5)
    own = ablation_effect(source, dictionary, tokens, FEATURE, bos=0)
    elsewhere = ablation_effect(source, dictionary, tokens, FEATURE, bos=0, direction=direction)
    other = ablation_effect(source, dictionary, tokens, CONTROL, bos=0)
    assert (study.n_predicted, study.n_active, study.n_control_active) == (20 * 15, own.n_active, other.n_active)
    assert 3 < own.n_active < 100
    assert not own.active.any(1).all()
    assert study.change == pytest.approx(own.mean_when_active, abs=1e-6)
    assert study.direction_change == pytest.approx(elsewhere.mean_when_active, abs=1e-6)
    assert study.control_own_change == pytest.approx(other.mean_when_active, abs=1e-6)
    at = own.active
    assert study.control_change == pytest.approx(float(other.log_likelihood[at].mean()), abs=1e-6)
    assert study.harmed == pytest.approx(float((own.log_likelihood[at] < 0).float().mean()))


def test_bos_is_left_clean(made):
    source, dictionary, split = made
    dictionary.b_enc[5], given, seen = 100.0, source.loss, []

    def loss(tokens, replace=None):
        x = source.activations(tokens)
        if replace is not None:
            seen.append((replace(x) != x).any(-1))
        return given(tokens, replace)

    source.loss = loss
    ablation_study(source, dictionary, split, 5, FEATURE, n_tokens=100)
    del source.loss
    assert len(seen) == 3
    assert not any(changed[:, 0].any() for changed in seen)
    assert all(changed[:, 1:].all() for changed in seen[:2])


def test_a_feature_that_never_fires_and_one_that_is_not_there(made):
    source, dictionary, split = made
    study = ablation_study(source, dictionary, split, 3, 3, n_tokens=300)
    assert study.n_active == 0
    assert np.isnan([study.change, study.direction_change, study.control_change, study.harmed]).all()
    with pytest.raises(ConfigError, match="no feature 24"):
        ablation_study(source, dictionary, split, 24, 3, n_tokens=300)


def test_the_control_direction_is_as_long_and_seeded():
    like = torch.randn(512, generator=torch.Generator().manual_seed(0))
    direction = random_direction(like, 1)
    assert float(direction.norm()) == pytest.approx(float(like.norm()), rel=1e-5)
    assert abs(float(torch.cosine_similarity(direction, like, dim=0))) < 0.2
    assert torch.equal(direction, random_direction(like, 1))
    assert not torch.equal(direction, random_direction(like, 2))


def test_a_control_of_like_density():
    density = np.geomspace(1e-5, 1e-1, 200)
    density[150:] = 0
    drawn = {like_density(density, 100, seed) for seed in range(200)}
    assert drawn == {*range(90, 100), *range(101, 111)}
    assert like_density(density, 149) < 149  # and none that is dead
    assert like_density(np.array([0.0, 0.1, 0.2]), 1) == 2
