"""The contest with trainings that cost nothing: which settings and seeds are trained, which rate stays, what is printed."""

import json
import math

import pytest
import torch

from benchmarks import quality
from benchmarks.measures import measure
from benchmarks.subjects import Subject, Synthetic
from benchmarks.trainings import Contestant, Sizes
from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.toys.synthetic import SyntheticConfig

SIZES = Sizes(steps=1, width=16, batch_size=8)
N = 4_000


class FewRows(Subject):
    """Normal rows in 16 dimensions, the same to train on and to judge by."""

    def __init__(self):
        super().__init__(torch.randn(N, 16, generator=torch.Generator().manual_seed(0)))

    def glance(self, dictionary):
        return measure(dictionary, [self.rows], n_rows=N)

    judge = glance


def fake(asked, *, bad_rate=None):
    """The identity with a threshold: P(active) falls with `sparsity` as a normal variable's tail does. At `bad_rate` its
    dictionary vectors point elsewhere."""

    def train(rows, sizes, settings):
        asked.append((settings.lr, round(settings.sparsity, 4), settings.seed))
        directions = torch.eye(16).roll(1, 0) if settings.lr == bad_rate else torch.eye(16)
        return TiedBiasDictionary(torch.eye(16), torch.full((16,), -float(settings.sparsity)), directions, torch.zeros(16))

    return train


def test_other_seeds_train_at_what_the_first_one_found():
    asked = []
    entry = quality.compete(Contestant(fake(asked), (0.1,)), FewRows(), SIZES, quality.Aim(l0=4, start=0.3), 3)
    threshold = 0.6745  # beyond it lies a quarter of a normal variable, 4 of 16
    assert entry.sparsity == pytest.approx(threshold, rel=0.1)
    assert asked[-2:] == [(0.1, round(entry.sparsity, 4), 1), (0.1, round(entry.sparsity, 4), 2)]
    assert {seed for _, _, seed in asked[:-2]} == {0}
    assert len(entry.qualities) == 3
    assert entry.qualities[0].reconstruction.l0 == pytest.approx(4, rel=0.05)
    assert sorted(round(one["sparsity"], 4) for one in entry.searched) == sorted(setting for _, setting, _ in asked[:-2])


@pytest.mark.parametrize("rates", [(0.1, 0.2), (0.2, 0.1)])
def test_the_learning_rate_of_the_lower_fvu_stays_and_both_are_recorded(rates):
    asked = []
    contestant = Contestant(fake(asked, bad_rate=0.2), rates)
    entry = quality.compete(contestant, FewRows(), SIZES, quality.Aim(l0=4, start=0.6), 2)
    assert entry.lr == asked[-1][0] == 0.1
    assert {one["lr"] for one in entry.searched} == {0.1, 0.2}


def test_one_that_steers_for_l0_is_first_asked_for_the_wanted_one():
    asked = []
    train = fake(asked)

    def by_target(rows, sizes, settings):
        made = train(rows, sizes, settings)
        share = torch.tensor(settings.sparsity / 16)
        return TiedBiasDictionary(made.W_enc, -torch.special.ndtri(1 - share).expand(16).clone(), made.W_dec, made.b_dec)

    entry = quality.compete(Contestant(by_target, (None,), by_target=True), FewRows(), SIZES, quality.Aim(l0=5), 1)
    assert asked == [(None, 5.0, 0)]
    assert entry.qualities[0].reconstruction.l0 == pytest.approx(5, rel=0.05)


def entries(l0):
    subject = FewRows()
    share = torch.special.ndtri(torch.tensor(1 - l0 / 16))
    dictionary = TiedBiasDictionary(torch.eye(16), -share.expand(16).clone(), torch.eye(16), torch.zeros(16))
    found = subject.judge(dictionary)
    return {"saelens": quality.Entry(lr=3e-4, sparsity=2.5, searched=[], qualities=[found, found], seconds=1.0)}


def test_the_report_says_settings_and_who_is_not_at_equal_l0():
    equal, other = quality.report(entries(4), quality.Aim(l0=4)), quality.report(entries(5), quality.Aim(l0=4))
    assert "| saelens (lr 0.0003, λ 2.5) | 2 | " in equal
    assert "NOT AT EQUAL L0" not in equal
    assert "NOT AT EQUAL L0: saelens has 5." in other
    assert "recovered" not in equal.splitlines()[0]  # no truth and no transformer here: no empty columns


def test_the_record_is_json_and_keeps_every_seed():
    record = json.loads(json.dumps(quality.record(entries(4), {"steps": 1})))
    seeds = record["results"]["saelens"]["seeds"]
    assert len(seeds) == 2
    assert seeds[0]["L0"] == pytest.approx(4, rel=0.05)
    assert seeds[0]["recovered"] is None
    assert record["conditions"] == {"steps": 1}


def test_each_subject_has_its_own_sizes():
    synthetic, activations = quality.parse(["synthetic"]), quality.parse(["activations", "--steps", "7"])
    assert (synthetic.l0, synthetic.width, synthetic.steps) == (6.0, 512, 2000)
    assert (activations.l0, activations.width, activations.steps) == (15.0, 1024, 7)


def test_rates_of_the_command_line_take_the_place_of_a_contestants_own(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(quality, "CONTESTANTS", {"saelens": Contestant(fake(asked), (0.1,))})
    monkeypatch.setattr(quality, "Synthetic", lambda config, n_rows: FewRows())
    given = quality.parse(["synthetic", "--l0", "4", "--l1", "0.67", "--seeds", "1"])
    given.contestants, given.threads, given.rates = ["saelens"], torch.get_num_threads(), [0.3, 0.5]
    quality.run(given)
    assert {lr for lr, _, _ in asked} == {0.3, 0.5}
    assert "saelens (lr 0.3, " in capsys.readouterr().out


def test_synthetic_rows_have_a_mean_square_norm_of_d_mlp_and_held_out_ones_are_others():
    subject = Synthetic(SyntheticConfig(n_features=16, d_mlp=16, mean_l0=2.0), 5_000)
    assert subject.rows.shape == (5_000, 16)
    assert subject.rows.square().sum(1).mean().item() == pytest.approx(16, rel=1e-5)
    heldout = next(subject.heldout())
    assert heldout.square().sum(1).mean().item() == pytest.approx(16, rel=0.1)
    assert not math.isclose(heldout[0].norm().item(), subject.rows[0].norm().item(), rel_tol=1e-6)
