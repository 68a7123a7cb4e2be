"""Shared by the tests of what comes from hubs."""

import time

import pytest


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds for which somebody wanted to sleep, between two attempts say; nobody does. They are no clock's, so no machine's."""
    wanted: list[float] = []
    monkeypatch.setattr(time, "sleep", wanted.append)
    return wanted
