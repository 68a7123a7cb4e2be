"""`train`, `train_many`, `fit`: what goes in, what comes out, and that sharing a pass changes no bit."""

import dataclasses
import threading
from itertools import islice
from typing import ClassVar

import pytest
import torch

import sae
from sae.errors import ConfigError, DivergenceError, NumericsError
from sae.training import config as config_module
from sae.training import fit as fit_module
from sae.training.config import TrainConfig
from sae.training.data import Feed, TensorRows
from sae.training.fit import fit, train, train_many
from sae.training.observers import History
from sae.training.trainer import Trainer
from tests.storage.test_activations import make_store
from tests.support.toy_training import DEAD, assert_same_bits, drive, toy_config, toy_rows, toy_trainer

SWEEP = [
    toy_config(**DEAD),
    toy_config(l1=3.0),
    toy_config(**DEAD, n_features=33, n_steps=45),
    toy_config(**DEAD, seed=7),
    toy_config(recipe="april2024", n_steps=70),
    toy_config(target_l0=3.0, log_every=7),
    toy_config(normalise_inputs=False, resample_inputs=200),
]


def small(**changes):
    return {"n_features": 24, "steps": 20, "batch_size": 40, "resample_inputs": 80, **changes}


def test_public_names():
    assert (sae.train, sae.train_many) == (train, train_many)


def test_rows_from_anywhere_give_the_same_dictionary(tmp_path):
    """A tensor, any source, an iterator of the same batches, a store: the batches are all that counts."""
    rows = toy_rows(320)
    how = small(resample_at=(), normalise_inputs=False)
    dictionary = train(rows, **how)
    batches = list(islice(TensorRows(rows).batches(40), 20))
    for same in (TensorRows(rows), batches, iter(batches), (batch.double() for batch in batches)):
        assert torch.equal(train(same, **how).W_enc, dictionary.W_enc)
    store = make_store(tmp_path / "store", 300)
    assert torch.equal(train(store, **how).W_dec, train(store.batches(40), **how).W_dec)


class Told(TensorRows):
    """Notes what it is told of the device."""

    pins: ClassVar[list[bool | None]] = []

    def batches(self, n_rows, *, seed=0, start=0, pin=None):
        self.pins.append(pin)
        if pin:
            raise LookupError("no GPU here")
        return super().batches(n_rows, seed=seed, start=start)


def test_a_source_that_asks_is_told_whether_batches_go_to_a_gpu(monkeypatch):
    """Before its first batch, which comes before anything is put on the GPU; so are those that are looked at aside."""
    monkeypatch.setattr(Told, "mean_square_norm", None)
    monkeypatch.setattr(Told, "pins", [])
    train(Told(toy_rows(320)), device="cpu", **small())
    list(Feed(Told(toy_rows(320)), 40, 0, device=torch.device("cpu")).others(2))
    assert len(Told.pins) >= 4
    assert set(Told.pins) == {False}
    monkeypatch.setattr(fit_module, "to_device", lambda device: torch.device("cuda:1"))
    with pytest.raises(LookupError):
        train(Told(toy_rows(320)), device="cuda:1", **small())
    assert Told.pins[-1] is True


def test_batch_size_and_steps_by_default(monkeypatch):
    """One pass over the rows, at least so many; an iterator's batches are as they are."""

    def sizes(rows, **how):
        params = train(rows, n_features=16, resample_inputs=80, **how).run.params
        return params["batch_size"], params["n_steps"]

    monkeypatch.setattr(config_module, "FEWEST_STEPS", 3)
    assert sizes(toy_rows(400), batch_size=40) == (40, 10)
    assert sizes(toy_rows(409), batch_size=100) == (100, 4)
    assert sizes(toy_rows(400)) == (400, 3)
    assert sizes(toy_rows(9000)) == (8192, 3)
    assert sizes(iter([toy_rows(30)] * 5)) == (30, 3)
    assert sizes(toy_rows(400), batch_size=40, steps=2) == (40, 2)
    monkeypatch.undo()
    assert config_module.FEWEST_STEPS == 1000


def test_sizes_by_default_are_the_same_for_many(monkeypatch):
    """What is left open in a config follows the rows, as in `train`; each has its own length."""
    monkeypatch.setattr(config_module, "FEWEST_STEPS", 3)
    few = {"n_features": 16, "resample_inputs": 80}

    def sizes(rows, *configs):
        runs = [dictionary.run.params for dictionary in train_many(rows, configs)]
        return [(params["batch_size"], params["n_steps"]) for params in runs]

    assert sizes(toy_rows(400), TrainConfig(**few), TrainConfig(**few, n_steps=2)) == [(400, 3), (400, 2)]
    assert sizes(toy_rows(400), TrainConfig(**few, batch_size=40)) == [(40, 10)]
    assert sizes(iter([toy_rows(30)] * 5), TrainConfig(**few), TrainConfig(**few, batch_size=30)) == [(30, 3)] * 2
    alone = train(toy_rows(400), **few)
    assert torch.equal(train_many(toy_rows(400), [TrainConfig(**few)])[0].W_enc, alone.W_enc)
    assert alone.run.params == train_many(toy_rows(400), [TrainConfig(**few)])[0].run.params


def test_sizes_by_default_are_kept_in_checkpoints(tmp_path, monkeypatch):
    """The run that goes on may say what the first left open, and the other way round."""
    monkeypatch.setattr(config_module, "FEWEST_STEPS", 3)
    how = {"n_features": 16, "resample_inputs": 80, "checkpoints": tmp_path}
    first = train(toy_rows(400), **how)
    assert torch.equal(train(toy_rows(400), **how, batch_size=400, steps=3).W_enc, first.W_enc)


def test_arguments_reach_the_config():
    params = train(toy_rows(), **small(recipe="april2024", l1=3.0, lr=1e-3, seed=5, warmup=0.1, data_seed=2)).run.params
    told = {"recipe": "april2024", "l1": 3.0, "learning_rate": 1e-3, "seed": 5, "warmup": 0.1, "data_seed": 2, "n_steps": 20}
    assert params.items() >= told.items()
    assert train(toy_rows(), **small(target_l0=4.0)).run.params["target_l0"] == 4.0


@pytest.mark.parametrize(
    ("rows", "how", "message"),
    [
        (toy_rows(), {"steps": 0}, "'n_steps' = 0: must be at least 1"),
        (toy_rows(), {"batch_size": 0}, "'batch_size' = 0: must be at least 1"),
        (toy_rows(), {"batch_size": 401}, "batches of 401 rows from 400"),
        (toy_rows(), {"lamda": 3.0}, "'train.lamda' is not a parameter"),
        (toy_rows(), {"l1": 3.0, "target_l0": 3.0}, "give one of them"),
        (toy_rows(), {"device": "tpu"}, "device 'tpu'"),
        (toy_rows() * 0, {}, "mean square norm is 0.0: nothing to learn from"),
        (toy_rows() * float("nan"), {}, "mean square norm is nan"),
        (toy_rows().double() * 1e100, {}, "beyond float32; give the rows another unit"),
        (toy_rows().double() * 1e-100, {}, "beyond float32; give the rows another unit"),
        (torch.zeros(0, 8), {}, "floating-point tensor"),
        ([], {}, "the iterator has no batches"),
        ([toy_rows(30)] * 30, {}, "'batch_size' = 40, but the iterator's batches have 30 rows"),
        ([toy_rows(40)] * 19, {}, "the iterator ended after 19 batches"),
    ],
)
def test_what_cannot_be_trained_on_is_told(rows, how, message):
    with pytest.raises(ConfigError) as error:
        train(rows, **small(**how))
    assert message in str(error.value)


def test_observers_of_another_number_are_told():
    with pytest.raises(ConfigError, match="1 lists of observers for 2 configs"):
        train_many(toy_rows(), [toy_config(), toy_config()], observers=[[]])


def test_each_of_many_is_the_one_trained_alone():
    """λ, width, recipe, seed, target and length differ; dead features are found on the way."""
    together = fit(toy_rows(), SWEEP)
    for config, one in zip(SWEEP, together, strict=True):
        assert_same_bits(one, fit(toy_rows(), [config])[0])
        assert one.dictionary.run.params == dataclasses.asdict(config)
    found = [sum(row.get("n_resampled", 0) for row in one.history) for one in together]
    assert found[0] > 0
    assert found[2] > 0
    assert found[3] > 0
    assert all(torch.equal(a.W_enc, b.dictionary.W_enc) for a, b in zip(train_many(toy_rows(), SWEEP), together, strict=True))


def test_each_of_many_is_the_one_trained_alone_from_an_iterator():
    """Looking ahead for one dictionary's resampling moves no batch of another's."""
    batches, configs = list(islice(TensorRows(toy_rows()).batches(40), 60)), SWEEP[:4]
    for config, one in zip(configs, fit(iter(batches), configs), strict=True):
        assert_same_bits(one, fit(iter(batches), [config])[0])


def test_those_that_cannot_share_batches_are_told():
    for odd in (toy_config(batch_size=41), toy_config(data_seed=1)):
        with pytest.raises(ConfigError, match="share batch_size and data_seed"):
            fit(toy_rows(), [toy_config(), odd])


@pytest.mark.parametrize("recipe", ["monosemanticity", "april2024"])
def test_inputs_of_any_scale_give_the_same_dictionary(recipe):
    """Four times as large, a power of two: the same bits, features four times as large. Ten times: up to rounding."""
    rows, x = toy_rows(), toy_rows(50, seed=1)
    plain, four, ten = (train(rows * factor, **small(recipe=recipe)) for factor in (1, 4, 10))
    assert torch.equal(four.W_enc, plain.W_enc)
    assert torch.equal(four.W_dec, plain.W_dec)
    assert torch.equal(four.encode(4 * x), 4 * plain.encode(x))
    assert torch.equal(four(4 * x), 4 * plain(x))
    torch.testing.assert_close(ten(10 * x), 10 * plain(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("recipe", ["monosemanticity", "april2024"])
def test_folding_leaves_the_function_alone(recipe):
    """Scale and norms go into the weights: x̂ is what the trained weights make of the scaled row, f in units of the row."""
    trainer = drive(*toy_trainer(toy_config(recipe=recipe), toy_rows() / 3, scale=3.0))
    dictionary, x = trainer.dictionary(), toy_rows(50, seed=1) / 3
    W_enc, b_enc, W_dec, b_dec = trainer.state.weights
    f = torch.relu((3 * x - b_dec if recipe == "monosemanticity" else 3 * x) @ W_enc.T + b_enc)
    assert (f > 0).any()
    torch.testing.assert_close(dictionary(x), (f @ W_dec + b_dec) / 3, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dictionary.encode(x), f * W_dec.norm(dim=1) / 3, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(24))


def test_inputs_are_left_as_they_are_if_asked():
    trained = fit(toy_rows() * 7, [toy_config(normalise_inputs=False)])[0]
    assert trained.dictionary.run.facts["input_scale"] == 1.0


def test_the_run_record():
    config = toy_config(**DEAD)
    trained = fit(toy_rows(), [config])[0]
    run = trained.dictionary.run
    assert (run.kind, run.seed, run.device) == ("dictionary", 0, "cpu")
    assert run.params == dataclasses.asdict(config)
    assert run.facts["lambda"] == 20.0
    assert run.facts["input_scale"] == pytest.approx((8 / float(toy_rows().square().sum(1).mean())) ** 0.5)
    assert run.facts["last_record"] == trained.history[-1]
    assert run.facts["last_record"]["step"] == 60
    assert type(run).from_json(run.to_json()).params["betas"] is None


def test_observers_are_told_of_their_own_dictionary():
    told = [[History()], [History(), History()]]
    trained = fit(toy_rows(), SWEEP[:2], observers=told)
    for histories, one in zip(told, trained, strict=True):
        assert all(history.rows == one.history for history in histories)


def test_firings_are_of_every_row_of_the_whole_windows():
    trained = fit(toy_rows(), [toy_config(density_window=0.25)])[0]
    assert trained.firing_rows.tolist() == [600] * 4
    assert trained.firings.shape == (4, 24)
    assert int(trained.firings.sum()) > 0


def test_in_a_thread():
    """Python lets no signal be handled there; training goes on without."""
    results = []
    thread = threading.Thread(target=lambda: results.append(train(toy_rows(), **small())))
    thread.start()
    thread.join()
    assert torch.equal(results[0].W_enc, train(toy_rows(), **small()).W_enc)


def test_a_batch_that_is_refused_stops_without_checkpoints_as_well():
    batches = list(islice(TensorRows(toy_rows()).batches(40), 20))
    batches[12] = batches[12] * float("nan")
    with pytest.raises(NumericsError, match="at step 12; 40 of its 40 rows hold NaN or infinity"):
        train(batches, **small())


@pytest.mark.parametrize("wrong", [{"start": "bogus"}, {"engine": "x"}, {"seed": -5}, {"data_seed": -5}, {"n_steps": 5.5}])
def test_configs_made_by_hand_are_checked_too(wrong):
    config = toy_config()
    for name, value in wrong.items():  # the type checker of the tests would refuse it sooner
        object.__setattr__(config, name, value)
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        train_many(toy_rows(), [config])


def test_an_iterator_may_fill_the_same_buffer_again():
    def fresh():
        yield from toy_rows().split(40)

    def reused():
        buffer = torch.empty(40, toy_rows().shape[1])
        for batch in fresh():
            yield buffer.copy_(batch)

    n_steps = len(list(fresh()))
    assert n_steps > 1
    a, b = (fit(batches(), [toy_config(n_steps=n_steps)])[0].dictionary for batches in (fresh, reused))
    assert torch.equal(a.W_enc, b.W_enc)


def test_no_clipping_is_zero():
    assert toy_config(recipe="april2024", max_gradient_norm=0.0).settled().rule.max_gradient_norm is None
    assert toy_config(recipe="april2024").settled().rule.max_gradient_norm == 1.0


def test_trained_saved_and_loaded(tmp_path):
    trained = train(toy_rows(), n_features=24, steps=5, batch_size=40)
    sae.save(trained, tmp_path / "mine")
    again = sae.load(tmp_path / "mine")
    assert torch.equal(trained.W_enc, again.W_enc)
    assert again.run.facts == trained.run.facts


def test_the_same_thing_twice_under_two_names():
    with pytest.raises(ConfigError, match="give it as lr"):
        train(toy_rows(), learning_rate=1e-3, lr=1e-2)


@pytest.mark.parametrize("changes", [DEAD, {"recipe": "default"}, {"recipe": "april2024"}, {"engine": "dense"}])
def test_autocast_around_it_changes_no_bit(changes):
    config = toy_config(**changes)
    plain = fit(toy_rows(), [config])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_bits(fit(toy_rows(), [config])[0], plain)
        assert torch.is_autocast_enabled("cpu")


def test_an_iterator_runs_under_its_owner_s_autocast():
    """It may be a transformer; resampling looks at its batches too."""
    seen = []

    def batches():
        for batch in islice(TensorRows(toy_rows()).batches(40), 80):
            seen.append(torch.is_autocast_enabled("cpu"))
            yield batch

    with torch.autocast("cpu", dtype=torch.bfloat16):
        fit(batches(), [toy_config(**DEAD)])
    assert len(seen) >= 60
    assert all(seen)


def test_those_beside_one_that_diverges_are_trained_to_their_ends(capsys, monkeypatch):
    """With the bits of one trained alone; two fail, at different steps, one for weights that diverged in its last."""
    wild = toy_config(learning_rate=1e30)
    last = toy_config(n_steps=1, seed=99)

    def spoilt(trainer, whole=Trainer.dictionary):
        if trainer.config == last:
            trainer.state.weights.b_enc[3] = float("inf")
        return whole(trainer)

    monkeypatch.setattr(Trainer, "dictionary", spoilt)
    configs = [toy_config(**DEAD), wild, toy_config(target_l0=3.0, log_every=7, n_steps=45), last]
    told = r"^2 of 4 dictionaries failed, the others are whole\. b: .*at step \d+.* d: .*hold NaN"
    with pytest.raises(DivergenceError, match=told) as error:
        fit(toy_rows(), configs, names=["a", "b", "c", "d"])
    assert error.value.exit_code == NumericsError.exit_code
    for config, one in zip(configs, error.value.trained, strict=True):
        if config in (wild, last):
            assert one is None
        else:
            assert_same_bits(one, fit(toy_rows(), [config])[0])
    assert "b stops: loss is" in capsys.readouterr().err
    with pytest.raises(DivergenceError, match=r"configs\[0\]: ") as error:
        train_many(toy_rows(), [wild, configs[2]])
    assert error.value.trained[1].dictionary.n_features == 24


def test_one_alone_that_diverges_is_told_without_a_name():
    with pytest.raises(DivergenceError, match=r"^loss is .* training diverged: lower learning_rate$") as error:
        fit(toy_rows(), [toy_config(learning_rate=1e30)])
    assert error.value.trained == [None]
