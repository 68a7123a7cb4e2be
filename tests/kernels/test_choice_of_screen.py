"""The choice of a screen by the clock, with times that the tests say: none depends on how fast the machine is."""

import pytest
import torch

from sae.kernels import cpu
from sae.kernels.byte_screens import BytesScreen, ListsScreen
from sae.kernels.choice_of_screen import CHANGE, ROUNDS, WORTH_FROM, ScreenChoice
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.screens import Bfloat16Screen, Float32Screen, SparseRowsScreen
from sae.training.config import TrainConfig
from sae.training.observers import History
from sae.training.trainer import Trainer
from tests.support.problems import copied, fresh_state, problem, same_bits

KINDS = [BytesScreen, ListsScreen, Bfloat16Screen]


def steps(choice, seconds, densities=(0.1, 0.5), n=20):
    """What `n` steps took, each as long as `seconds` says of its kind."""
    kinds = []
    for _ in range(n):
        screen = choice.next(*densities)
        kinds.append(type(screen))
        choice.took(screen, seconds[type(screen)])
    return kinds


@pytest.mark.parametrize("best", KINDS)
def test_the_quickest_is_taken_whichever_it_is(best):
    """No order, no table: the same processor and data, other times, another choice."""
    choice = ScreenChoice(KINDS, 40)
    kinds = steps(choice, {kind: 1.0 if kind is best else 1.5 for kind in KINDS})
    assert kinds[: ROUNDS * len(KINDS)] == KINDS * ROUNDS, "each is timed"
    assert set(kinds[ROUNDS * len(KINDS) :]) == {best}
    assert choice.news == [{"chosen": best.name, **{f"{kind.name}_ms": 1e3 if kind is best else 1.5e3 for kind in KINDS}}]
    assert list(choice._screens) == [best], "the buffers of the others are let go"


def test_the_first_time_of_a_kind_may_hold_its_compilation():
    """The less of a kind's times counts, and none is given up after the first."""
    choice, asked = ScreenChoice(KINDS, 40), []
    for _ in range(10):
        screen = choice.next(0.1, 0.5)
        first = type(screen) not in asked
        asked.append(type(screen))
        choice.took(screen, {BytesScreen: 2.0, ListsScreen: 30.0 if first else 1.0, Bfloat16Screen: 3.0}[type(screen)])
    assert choice.chosen is ListsScreen
    assert choice.news[0]["lists_ms"] == 1000


@pytest.mark.parametrize(
    ("densities", "again"),
    [((0.1, 0.5), False), ((0.05, 0.4), False), ((0.1 / CHANGE, 0.5), True), ((0.1, 0.15), True), ((0.4, 0.5), True)],
)
def test_it_is_tried_again_when_a_density_changes_much(densities, again):
    choice = ScreenChoice(KINDS, 40)
    steps(choice, {BytesScreen: 1.0, ListsScreen: 2.0, Bfloat16Screen: 5.0})
    later = steps(choice, {BytesScreen: 2.0, ListsScreen: 1.0, Bfloat16Screen: 5.0}, densities)
    assert choice.chosen is (ListsScreen if again else BytesScreen)
    assert len(choice.news) == (2 if again else 1)
    assert later.count(Bfloat16Screen) == (1 if again else 0), "what is compiled and hopeless is asked once"


@pytest.mark.parametrize("has_bytes", [True, False])
@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_candidates_are_what_the_processor_has_instructions_for(has_bfloat16, has_bytes, monkeypatch):
    monkeypatch.setattr(cpu, "multiplies_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(cpu, "multiplies_bytes", lambda: has_bytes)
    kinds = set(cpu.screen_kinds())
    wanted = {SparseRowsScreen, Float32Screen}
    assert kinds == wanted | ({BytesScreen, ListsScreen} if has_bytes else set()) | ({Bfloat16Screen} if has_bfloat16 else set())
    weights, _ = problem(n_features=40)
    engine = cpu.CpuEngine(fresh_state(weights), Objective(), UpdateRule())
    assert len(engine.update.bits) == (40 if has_bfloat16 else 0)


def test_the_choice_changes_no_bit_of_a_run():
    """Two engines for which the clock says the opposite: other screens at nearly every step, the same state after each."""
    weights, x = problem(n_rows=200, n_features=100, bias=-15.0)
    engines = [cpu.CpuEngine(fresh_state(weights), Objective(), UpdateRule()) for _ in range(2)]
    for engine, sign in zip(engines, (1, -1), strict=True):
        order = sorted(cpu.screen_kinds(), key=lambda kind: sign * len(kind.name))
        times = {kind: 1.0 + place for place, kind in enumerate(order)}
        took = engine.choice.took
        engine.choice.took = lambda screen, seconds, took=took, times=times: took(screen, times[type(screen)])
    for _ in range(2 * ROUNDS * len(cpu.screen_kinds())):
        for engine in engines:
            engine.sparse(x, 0.3, 1e-3)
        assert same_bits(copied(engines[0].state), engines[1].state)
    assert engines[0].choice.chosen is not engines[1].choice.chosen


@pytest.mark.parametrize(("n_steps", "tries"), [(WORTH_FROM - 1, False), (WORTH_FROM, True)])
def test_a_short_run_holds_no_trial(n_steps, tries):
    """It would pay for compiling screens that it never uses."""
    _, x = problem(n_rows=64, d_mlp=16)
    engine = Trainer(TrainConfig(n_features=16, n_steps=n_steps), x, 1.0, torch.device("cpu")).engine
    for _ in range(3):
        engine.sparse(x, 0.3, 1e-3)
    assert len(engine.choice._screens) == (min(3, len(cpu.screen_kinds())) if tries else 1)


@pytest.mark.parametrize("has_bytes", [True, False])
def test_without_a_trial_rows_of_few_entries_are_listed(has_bytes, monkeypatch):
    monkeypatch.setattr(cpu, "multiplies_bytes", lambda: has_bytes)
    assert cpu.usual_screen(0.14) is (ListsScreen if has_bytes else SparseRowsScreen)
    assert cpu.usual_screen(0.51) is (BytesScreen if has_bytes else Float32Screen)


class Told:
    """An observer that keeps its events."""

    def __init__(self):
        self.events = []

    def event(self, step, name, values):
        self.events.append((name, values))

    def start(self, state): ...
    def record(self, step, values): ...
    def advance(self, n_steps): ...
    def close(self): ...
    def state(self): ...


def test_a_run_logs_its_choice_and_keeps_it_out_of_what_it_makes():
    """The times differ from run to run; the history that is saved with a dictionary must not."""
    told, history = Told(), History()
    _, x = problem(n_rows=64, d_mlp=16)
    config = TrainConfig(n_features=16, n_steps=3)
    trainer = Trainer(config, x, 1.0, torch.device("cpu"), [told, history])
    trainer.engine.choice.news.append({"chosen": "lists", "lists_ms": 1.25})
    trainer.step(x)
    assert ("screen", {"chosen": "lists", "lists_ms": 1.25}) in told.events
    assert not [row for row in history.rows if row.get("event") == "screen"]
    assert not trainer.engine.choice.news
