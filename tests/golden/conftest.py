"""Notes which golden file a test reads, and how near it was met."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.golden import _golden


@pytest.fixture(autouse=True)
def _note(request: pytest.FixtureRequest) -> Iterator[None]:
    """As a property of the test's report, which comes back from whatever process ran the test."""
    parameters: dict[str, Any] = getattr(getattr(request.node, "callspec", None), "params", {})
    _golden.largest[:] = 0.0, 0.0
    yield
    for case in parameters.values():
        if isinstance(case, _golden.Case) and any(_golden.largest):
            request.node.user_properties.append(("golden", (case.name, *_golden.largest)))
