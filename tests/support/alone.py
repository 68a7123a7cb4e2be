"""Tests that fork, in a process of their own: each file's are run by a second pytest, whose reports stand for them here.

A fork copies locks as they are. Where another thread holds MKL's, as a feed that an earlier test left at work may, the child
waits for it for ever: once in 25 runs of the suite. In the fresh process nothing else was begun."""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

VARIABLE = "SAE_TESTS_ALONE"
"""Set in the fresh process: the file that it writes its reports to."""


def protocol(item):
    """What pytest does with `item`, told by the fresh process."""
    names = tuple(
        each.nodeid for each in item.session.items if each.path == item.path and each.get_closest_marker("alone") is not None
    )
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    told = _reports(names, item.config.getoption("markexpr"))
    found = [report for report in told["reports"] if report["nodeid"] == item.nodeid]
    if not found:
        raise RuntimeError(f"the fresh process said nothing of {item.nodeid}:\n{told['output'][-5000:]}")
    for data in found:
        item.ihook.pytest_runtest_logreport(
            report=item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
        )
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@cache
def _reports(names, markers):
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "reports"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.support.alone", "-m", markers, *names]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        done = subprocess.run(command, env={**environment, VARIABLE: str(told)}, capture_output=True, text=True)
        lines = told.read_text().splitlines() if told.exists() else []
        return {"reports": [json.loads(line) for line in lines], "output": done.stdout + done.stderr}


if os.environ.get(VARIABLE):

    @pytest.hookimpl
    def pytest_configure(config):
        config.pluginmanager.register(_Writer(config), "alone-writer")

    class _Writer:
        def __init__(self, config):
            self.config = config

        def pytest_runtest_logreport(self, report):
            data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
            with open(os.environ[VARIABLE], "a") as file:
                file.write(json.dumps(data, default=str) + "\n")
