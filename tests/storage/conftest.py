"""What tests of stores in buckets share; nothing of it is made, or imported, for the others."""

import re
from datetime import timedelta

import pytest

from tests.support.activations import small_store


@pytest.fixture(scope="session")
def server():
    from tests.support.s3 import Server  # moto takes seconds to import

    running = Server()
    yield running
    running.stop()


@pytest.fixture
def door(server, monkeypatch, tmp_path, request):
    """The way to the server, with a fresh bucket behind it; retries take milliseconds."""
    from sae.storage import bucket as bucket_module
    from tests.support.s3 import Door, set_environment

    name = "b" + re.sub("[^a-z0-9]", "", request.node.name.lower())[-40:]
    server.make_bucket(name)
    opened = Door(server.port)
    set_environment(monkeypatch, opened.port)
    monkeypatch.setenv("SAE_CACHE", str(tmp_path / "cache"))
    quick = {"init_backoff": timedelta(milliseconds=2), "max_backoff": timedelta(milliseconds=4), "base": 2}
    monkeypatch.setitem(bucket_module.RETRIES, "backoff", quick)
    monkeypatch.setitem(bucket_module.RETRIES, "max_retries", 3)
    opened.stored = server.stored
    opened.url = f"s3://{name}/runs/A/activations"
    yield opened
    opened.close()


@pytest.fixture
def whole(tmp_path):
    """100 rows in 2 shards."""
    return small_store(tmp_path / "whole")
