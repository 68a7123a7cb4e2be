"""Settings shared by all tests: one thread less than greedy, no network, no W&B server; shapes checked where it is cheap."""

import os
import sys
import typing

import jaxtyping
import pytest
from jaxtyping import _import_hook

from tests.support import alone, nudged

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test workers with two threads each wait for one another on two cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for _name in ("MODE", "PROJECT", "ENTITY", "DIR", "DISABLED"):  # obeyed before what a test says
    os.environ.pop(f"WANDB_{_name}", None)
os.environ.setdefault("WANDB_SILENT", "true")


def _has_shape(annotation):
    """Whether an annotation names the shape of an array, by itself or within a union, a tuple and the like."""
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(_has_shape(part) for part in typing.get_args(annotation))


def _where_shapes_are(decorate):
    """jaxtyping's decorator, but for what names no shape, whose types are mypy's business: half of the tests' time went there.
    Nor for functions within functions: it would build the checks of those afresh at every call of the outer one."""

    def jaxtyped(*, typechecker):
        checked = decorate(typechecker=typechecker)

        def decorated(asked):
            within = "<locals>" in getattr(asked, "__qualname__", "")
            shapes = any(map(_has_shape, getattr(asked, "__annotations__", {}).values()))
            return checked(asked) if shapes and not within else asked

        return decorated

    return jaxtyped


jaxtyping.jaxtyped = _where_shapes_are(jaxtyping.jaxtyped)  # the import hook looks it up by this name


def _exec_module(self, module):
    """As jaxtyping's, which looks for the byte code of all that the module imports under its own mark too, finds none, and
    compiles transformers and its like from their sources in each process: 10 s."""
    with _import_hook.patch(
        "importlib._bootstrap_external.cache_from_source",
        _import_hook.ft.partial(_import_hook._optimized_cache_from_source, self._typechecker.get_hash()),
    ):
        code = self.get_code(module.__name__)
    exec(code, module.__dict__)


_import_hook._JaxtypingLoader.exec_module = _exec_module

# Some hundred processes import the package: its byte code is kept, whatever the surroundings say.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


if os.environ.get(nudged.VARIABLE):
    nudged.install()


def pytest_report_header(config):
    return f"processor: {_processor()}"


def pytest_terminal_summary(terminalreporter, exitstatus):
    if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        terminalreporter.write_line(f"on: {_processor()}")


def _processor():
    from sae.processor import describe  # not before jaxtyping's hook is there to check it

    return describe() + ("; products nudged by a unit in the last place" if os.environ.get(nudged.VARIABLE) else "")


def pytest_runtest_protocol(item, nextitem):
    """A test that is marked `alone` is run in a fresh process, with all of its file that are asked for."""
    return alone.protocol(item) if item.get_closest_marker("alone") and not os.environ.get(alone.VARIABLE) else None


LONGEST = ("test_kill.py", "test_mirror.py", "test_kills.py", "test_damage.py", "test_resume.py")
"""Files that go first, so that no worker is left alone with one at the end."""


def pytest_collection_modifyitems(items):
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
