"""Many controls at once beside the study of each by forward passes."""

import numpy as np
import pytest

from sae.causal.ablation import ablation_study
from sae.causal.controls import ablation_controls
from sae.errors import ConfigError
from sae.features.config import FeaturesConfig
from sae.features.part import read
from tests.features.toy import setup

FEATURE, OTHERS = 7, [11, 3, 5]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    source, dictionary, tokens = setup(tmp_path_factory.mktemp("controls"))
    return source, dictionary, tokens.split("heldout"), read(source, dictionary, tokens, FeaturesConfig(n_tokens=10**6)).firings


def test_each_control_is_what_a_study_of_it_says(made):
    source, dictionary, split, firings = made
    found = ablation_controls(source, dictionary, split, firings, FEATURE, OTHERS, n_directions=2, contexts_per_batch=3, seed=5)
    for k, other in enumerate(OTHERS):
        study = ablation_study(source, dictionary, split, FEATURE, other, n_tokens=10**6, seed=5 + k)
        assert found.n_active == study.n_active > 10
        assert found.change == pytest.approx(study.change, abs=2e-6)
        assert found.controls[k] == pytest.approx(study.control_change, abs=2e-6)
        assert found.controls_own[k] == pytest.approx(study.control_own_change, abs=2e-6, nan_ok=True)
        if k < 2:
            assert found.directions[k] == pytest.approx(study.direction_change, abs=2e-6)
    assert (found.controls[1], len(found.directions)) == (0, 2)  # feature 3 never fires
    assert np.isnan(found.controls_own[1])


def test_of_a_feature_that_never_fires_nothing_is_known(made):
    found = ablation_controls(*made, 3, [5], n_directions=1)
    assert found.n_active == 0
    assert np.isnan([found.change, *found.directions, *found.controls]).all()
    assert not np.isnan(found.controls_own).any()


def test_what_is_not_there_is_refused(made, monkeypatch):
    with pytest.raises(ConfigError, match="no feature 24"):
        ablation_controls(*made, 7, [24])
    monkeypatch.setattr(made[0], "readout", lambda: None)
    with pytest.raises(ConfigError, match=r"use causal\.ablation_study"):
        ablation_controls(*made, 7, [5])
