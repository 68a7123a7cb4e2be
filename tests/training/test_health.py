"""A training that fails quietly is told: on stderr, in the dictionary's record, and of older ones from their last record."""

import pytest
import torch

import sae
from sae.errors import NumericsError
from sae.provenance import Run
from sae.training.health import Ending, warnings, warnings_of
from tests.support.toy_training import toy_rows

GOOD = {"loss": 30.0, "squared_error": 20.0, "fvu": 0.2, "l0": 6.0, "lambda": 3.0, "learning_rate": 0.0}
WHOLE = {"n_features": 100, "n_silent": 3, "n_rows": 5000, "first_loss": 110.0, "d_mlp": 64, "n_done": 10, "n_steps": 10}


def told(last=None, **changes):
    return "\n".join(warnings(Ending(last={**GOOD, **(last or {})}, **{**WHOLE, **changes})))


def test_a_good_training_is_not_warned_of():
    assert told() == ""
    assert told(n_silent=50) == ""
    assert told({"l0": 0.1, "fvu": 0.89}) == ""


@pytest.mark.parametrize(
    ("last", "changes", "expected"),
    [
        ({}, {"n_silent": 51}, "51 of 100 features are dead: they fired on none of the last 5,000 rows; lower l1"),
        ({"l0": 0.09}, {}, r"L0 ended at 0.09: hardly any feature fires; lower l1 \(λ ended at 3\)"),
        ({"fvu": 0.9}, {}, "FVU ended at 0.9, hardly better than one vector for all rows, which has 1; lower l1"),
        (
            {"fvu": 7.0, "squared_error": 448.0},
            {"learning_rate": 10.0},
            r"FVU ended at 7, no better than .*; lower learning_rate \(it was 10\)",
        ),
        ({"fvu": float("nan")}, {}, "FVU ended at nan"),
        ({"loss": 111.0}, {}, "the loss ended at 111, above 110 where it began; lower learning_rate"),
        ({"fvu": 1.0, "squared_error": 1e-3}, {}, "subtract their mean from the rows, which is all but 1.6e-05 of their mean"),
        ({}, {"n_done": 7}, "stopped after 7 of 10 steps"),
    ],
)
def test_what_is_wrong_is_said_with_its_figure_and_what_to_try(last, changes, expected):
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(told(last, **changes))


def test_too_few_rows_say_nothing_of_dead_features():
    assert told(n_silent=100, n_rows=999) == ""


def quick(rows, **how):
    return sae.train(rows, **{"n_features": 24, "steps": 60, "batch_size": 40, "resample_inputs": 80, **how})


@pytest.mark.parametrize(
    ("rows", "how", "expected"),
    [
        (toy_rows(), {"lr": 10.0}, "lower learning_rate (it was 10)"),
        (toy_rows() + 1000, {}, "subtract their mean from the rows"),
        (toy_rows(), {"l1": 1e4}, "L0 ended at 0: hardly any feature fires; lower l1 (λ ended at 1e+04)"),
    ],
    ids=["learning rate", "offset", "lambda"],
)
def test_trainings_that_fail_quietly_are_told(rows, how, expected, capsys):
    dictionary = quick(rows, **how)
    found = dictionary.run.facts["warnings"]
    assert expected.split("; ")[-1] in found[-1]
    assert any(expected.split(":")[0] in warning for warning in found)
    assert capsys.readouterr().err.splitlines() == [f"train: warning: {warning}" for warning in found]
    assert warnings_of(dictionary.run) == found


def test_a_training_that_comes_to_something_is_not_warned_of(capsys):
    rows = torch.relu(toy_rows()) * torch.tensor([1.0, 2.0, 4.0, 8.0, 0.0, 0.0, 0.0, 0.0])
    assert quick(rows, l1=0.1).run.facts["warnings"] == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("recipe", ["default", "monosemanticity", "april2024"])
def test_a_lambda_beyond_float32_is_blamed_for_what_it_does(recipe):
    with pytest.raises(NumericsError, match=r"λ is too large for float32: lower l1 \(it reaches 1e\+30"):
        quick(toy_rows(), l1=1e30, recipe=recipe)
    with pytest.raises(NumericsError, match="training diverged: lower learning_rate"):
        quick(toy_rows(), lr=1e30, recipe=recipe)


def test_the_first_loss_survives_a_resumption(tmp_path):
    straight = quick(toy_rows(), lr=10.0).run.facts["warnings"]
    quick(toy_rows(), lr=10.0, checkpoints=tmp_path)
    assert quick(toy_rows(), lr=10.0, checkpoints=tmp_path).run.facts["warnings"] == straight
    assert any("where it began" in warning for warning in straight)


def test_of_an_older_dictionary_its_last_record_tells():
    last = {**GOOD, "fvu": 1.0, "l0": 0.0, "n_dead": 100, "n_density_rows": 5000}
    run = Run(kind="dictionary", params={"n_features": 100}, facts={"last_record": last})
    assert len(warnings_of(run)) == 3
    assert warnings_of(Run(kind="dictionary")) == []
