"""A clock that steps back, and memory that is no longer there, in the processes of a running matrix."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.ground import Ground, Said, events

pytestmark = pytest.mark.slow


def trouble(ground: Ground, kind: str) -> Path:
    """Arrange it (see gremlin/sitecustomize.py): it begins once the returned file is there."""
    flag = ground.folder / "flag"
    ground.environment = {"PYTHONPATH": str(Path(__file__).parent / "gremlin"), "GREMLIN": f"{kind}:{flag}"}
    return flag


def test_the_clock_steps_back(ground: Ground, settle: Callable[..., Said]) -> None:
    flag = trouble(ground, "clock")
    driver = ground.start()
    assert driver.until(lambda: len({p.parent for p in ground.checkpoints()}) == 2)
    flag.touch()
    said = driver.end()
    assert said.code == 0 and not said.err, said
    times = [[e["time_ms"] for e in events(trial)] for trial in ground.trials()]
    assert any(b < a for ts in times for a, b in pairwise(ts)), "the journal saw it"
    settle(ground, "clock steps back by an hour", 1)


def test_memory_runs_out(ground: Ground, settle: Callable[..., Said]) -> None:
    flag = trouble(ground, "memory")
    driver = ground.start()
    assert driver.until(ground.training)
    flag.touch()
    said = driver.end()
    assert said.code == 0, said
    assert not flag.exists() and "once more with" in said.out
    settle(ground, "out of memory by a limit (RLIMIT_AS)", 1)
