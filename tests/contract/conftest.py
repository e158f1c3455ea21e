"""Plugins from outside keep the same promises."""

from collections.abc import Iterator

import pytest

from harness import outside
from tests.contract import EXAMPLE


@pytest.fixture(scope="module", autouse=True)
def from_outside() -> Iterator[None]:
    outside.use([outside.read(EXAMPLE)])
    yield
    outside.use([])
