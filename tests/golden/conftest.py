"""Notes which golden file a test reads, and prints how near each file was met."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.golden import _golden


@pytest.fixture(autouse=True)
def _current_file(request: pytest.FixtureRequest) -> Iterator[None]:
    parameters: dict[str, Any] = getattr(getattr(request.node, "callspec", None), "params", {})
    _golden.current = next((p.name for p in parameters.values() if isinstance(p, _golden.Case)), "")
    yield
    _golden.current = ""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    met = {name: worst for name, worst in _golden.largest.items() if name}
    if met:
        terminalreporter.section("golden files: largest relative difference (share of the tolerance)")
    for name, (relative, share) in sorted(met.items()):
        terminalreporter.line(f"{name:28} {relative:.2e}   ({share:6.1%})")
