"""Section `train`: a recipe by name with changes, sizes, and refusal of what makes no sense."""

import dataclasses

import pytest

from pipelines.feed import train_params
from sae.config import read_params, read_section
from sae.errors import ConfigError
from sae.training.config import TrainConfig
from sae.training.recipes import RECIPES, Recipe

SHARED = [field.name for field in dataclasses.fields(Recipe) if field.name != "n_steps"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_alone_is_the_recipe(recipe):
    """At its own length, where the rule for short runs changes nothing."""
    assert TrainConfig(recipe=recipe, n_steps=RECIPES[recipe].n_steps).settled() == RECIPES[recipe]


def test_every_field_of_a_recipe_can_be_changed():
    assert set(SHARED) <= {field.name for field in dataclasses.fields(TrainConfig)}


@pytest.mark.parametrize("name", SHARED)
def test_a_change_changes_that_and_nothing_else(name):
    """Each value of the other recipe (or one near it, where the two agree) arrives in the settled one."""
    base, other = RECIPES["monosemanticity"], RECIPES["april2024"]
    near = {"normalise_inputs": False, "l1_convention": "mean", "betas": (0.5, 0.9), "warmup": 0.1, "renormalise": "before"}
    near |= {"resample_window": 0.1, "resample_below": 0.1, "resample_inputs": 3, "resample_loss": "squared_error"}
    near |= {"subtract_bias": False, "rewarm": 0.1, "most_learning_rate": 1e-3, "active_at_start": 8}
    value = near.get(name, getattr(other, name))
    assert value != getattr(base, name)
    config = TrainConfig(recipe="monosemanticity", n_steps=1_000_000, **{name: value})
    assert config.settled() == dataclasses.replace(base, **{name: value})


def test_steps_of_the_run_are_not_those_of_the_recipe():
    settled = TrainConfig(recipe="monosemanticity", n_steps=250_000).settled()
    assert settled.n_steps == 1_000_000
    assert settled.learning_rate == pytest.approx(2e-4)
    assert TrainConfig(n_steps=10).settled().learning_rate == RECIPES["default"].most_learning_rate
    assert TrainConfig(n_steps=10, learning_rate=3e-4).settled().learning_rate == 3e-4


def test_lambda_in_either_convention():
    assert TrainConfig(l1=3.0).summed_l1(512) == 3.0
    assert TrainConfig(l1=3.0, l1_convention="mean").summed_l1(512) == 3.0 * 512
    assert TrainConfig(l1=0.0).summed_l1(512) == 0.0


def test_a_section_is_read_strictly():
    section = {"recipe": "april2024", "l1": "3e0", "resample_at": [0.5], "betas": [0.9, 0.99], "n_steps": 10}
    config = read_section({"train": section}, "train", TrainConfig)
    assert config == TrainConfig(recipe="april2024", l1=3.0, resample_at=(0.5,), betas=(0.9, 0.99), n_steps=10)
    with pytest.raises(ConfigError, match=r"'train.learning_rat' is not a parameter; did you mean 'learning_rate'"):
        read_section({"train": {"learning_rat": 1}}, "train", TrainConfig)
    with pytest.raises(ConfigError, match=r"'train.renormalise' = 'sometimes'"):
        read_section({"train": {"renormalise": "sometimes"}}, "train", TrainConfig)
    with pytest.raises(ConfigError, match="train: 'n_steps' = 0: must be at least 1"):
        read_section({"train": {"n_steps": 0}}, "train", TrainConfig)


def test_the_project_s_own_section_is_readable():
    read_section(train_params(read_params()), "train", TrainConfig)


def test_an_unknown_recipe_is_told_those_that_there_are():
    with pytest.raises(ConfigError, match="'recipe' = 'may2024': there are default, monosemanticity, april2024"):
        TrainConfig(recipe="may2024")


def test_lambda_or_a_target():
    with pytest.raises(ConfigError, match=r"'l1' = 2.0 and 'target_l0' = 20.0: give one of them"):
        TrainConfig(l1=2.0, target_l0=20.0)
    for target in (0.0, -3.0, 16.0, float("nan")):
        with pytest.raises(ConfigError, match="target_l0"):
            TrainConfig(n_features=16, target_l0=target)
    assert TrainConfig(n_features=16, target_l0=15.9).target_l0 == 15.9


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_features": 0},
        {"batch_size": 0},
        {"n_steps": -1},
        {"log_every": 0},
        {"l1": -1.0},
        {"l1": float("nan")},
        {"learning_rate": 0.0},
        {"learning_rate": float("inf")},
        {"decoder_norm": 0.0},
        {"betas": (2.0, 0.9)},
        {"betas": (0.9, 1.0)},
        {"ultralow": -5.0},
        {"density_window": -1.0},
        {"control_until": 1.5},
        {"resample_at": (0.5, 0.2)},
        {"resample_at": (1.5,)},
        {"resample_at": (0.5, 0.5)},
        {"resample_window": 2.0},
        {"resample_below": 1.5},
        {"resample_inputs": 0},
        {"active_at_start": 0},
        {"warmup": 0.6, "decay": 0.6},
        {"l1_warmup": -0.1},
        {"rewarm": 1.1},
        {"max_gradient_norm": -1.0},
        {"max_gradient_norm": float("nan")},
        {"most_learning_rate": float("nan")},
        {"most_learning_rate": 0.0},
    ],
)
def test_impossible_parameters_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig(**wrong)
