"""Boundaries are calibrated into a folder of the tests' own, and for fast tests by fewer sequences."""

import pytest

from harness.verdict import sequential


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.setenv("NASHBOARD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _few_sequences(request, monkeypatch):
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(sequential, "SEQUENCES", 1 << 15)
        monkeypatch.setattr(sequential, "BLOCK", 1 << 14)
    sequential.boundaries.cache_clear()
    yield
    sequential.boundaries.cache_clear()
