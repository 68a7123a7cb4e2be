"""Every stage, killed or refused at some file call, leaves what stood or what was to be, and run again ends as undisturbed.

`make faults` runs the long versions, over all stages, and prints what they counted."""

import errno
import random

import pytest
import yaml

from tests.faults.rounds import Lost, difference, make_rounds
from tests.faults.stages import OUTPUTS, Stages
from tests.import_graph import PIPELINES, bodies

ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG, errno.EMFILE)
QUICK = ("corpus", "tokens")
"""Those that need no transformer, whose package takes seconds to import."""
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def few(shim, tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    with Stages(shim, folder, QUICK) as stages:
        yield make_rounds(stages, QUICK, folder)


def test_no_stage_is_left_out():
    of_pipelines = {
        stage["cmd"].split("pipelines.")[1].split()[0]
        for path in PIPELINES
        for stage in bodies(yaml.safe_load(path.read_text())).values()
    }
    assert of_pipelines == set(OUTPUTS)


def kill(rounds, names, n, chance):
    """`n` kills, dealt to the stages in turn."""
    for i in range(n):
        stage, old = names[i % len(names)], chance.random() < 0.5
        rounds.kill(stage, chance.randrange(rounds.n_calls(stage, old=old, reads=False)), old=old)


def kill_everywhere(rounds, stage):
    for at in range(rounds.n_calls(stage, old=True, reads=False)):
        rounds.kill(stage, at, old=True)


def fail(rounds, names, n, chance):
    """`n` errors, dealt to the stages in turn; half of them may come where files are only read."""
    for i in range(n):
        stage = names[i % len(names)]
        old, reads, stays = (chance.random() < 0.5 for _ in range(3))
        at = chance.randrange(rounds.n_calls(stage, old=old, reads=reads))
        rounds.fail(stage, at, chance.choice(ERRORS), old=old, stays=stays, reads=reads)


def test_killed_at_file_calls(few):
    kill(few, QUICK, 3, random.Random(0))


def test_refused_at_file_calls(few):
    fail(few, QUICK, 3, random.Random(0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_all_stages_killed_at_file_calls(every, seed):
    every.seen.clear()
    kill(every, list(OUTPUTS), 108, random.Random(seed))
    print(f"\n{every.seen['kills']} kills over {len(OUTPUTS)} stages, 0 lost")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_all_stages_refused_at_file_calls(every, seed):
    every.seen.clear()
    fail(every, list(OUTPUTS), 54, random.Random(seed))
    print(f"\n{every.seen.total()} errors over {len(OUTPUTS)} stages, {dict(every.seen)}, 0 tracebacks")


@pytest.mark.slow
def test_the_harness_catches_a_writer_that_replaces_in_two_steps_and_never_puts_back(shim, tmp_path):
    with Stages(shim, tmp_path, ["corpus"], first="tests.faults.broken") as stages:
        rounds = make_rounds(stages, ["corpus"], tmp_path)
        with pytest.raises(Lost, match="data/corpus is gone"):
            kill_everywhere(rounds, "corpus")


def test_two_projects_are_compared_file_by_file(tmp_path):
    for name, content in (("one", "x"), ("other", "y")):
        (tmp_path / name).mkdir()
        for file in ("same", ".lock"):
            (tmp_path / name / file).write_text("same")
        (tmp_path / name / "different").write_text(content)
        (tmp_path / name / name).touch()
    assert difference(tmp_path / "one", tmp_path / "other") == {"different", "one", "other"}
