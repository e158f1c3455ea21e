"""Notes which golden file a test reads, and how near it was met."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.golden import _golden

NOTHING = [-1.0, -1.0]  # has been compared yet; numbers that are met exactly are 0


@pytest.fixture(autouse=True)
def _note(request: pytest.FixtureRequest) -> Iterator[None]:
    """As a property of the test's report, which comes back from whatever process ran the test."""
    parameters: dict[str, Any] = getattr(getattr(request.node, "callspec", None), "params", {})
    _golden.largest[:] = NOTHING
    yield
    for case in parameters.values():
        if isinstance(case, _golden.Case) and _golden.largest != NOTHING:
            request.node.user_properties.append(("golden", (case.name, *_golden.largest)))
