"""Processes of one trial that wait for another: longer than their patience, while it is at work beside the steps."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.ground import Ground, Numbers, Said

pytestmark = pytest.mark.slow
PATIENCE_S = 8
TEAM = ("--set", "run.resources.processes=2", "--set", f"run.patience_s={PATIENCE_S}", "--set", "run.retries=0")


def two_microbatches(ground: Ground) -> None:
    """Have two in each step, so that two processes can share them."""
    file = ground.folder / "faults.yaml"
    text = file.read_text()
    assert "batch_size: 8, tick_kimg" in text
    file.write_text(text.replace("batch_size: 8, tick_kimg", "batch_size: 8, batch_gpu: 4, tick_kimg"))


def test_rank_0s_upkeep_is_slow(ground: Ground, settle: Callable[..., Said]) -> None:
    """A checkpoint takes three times the patience of the other process. The numbers are those of one process alone."""
    alone = Ground()
    try:
        two_microbatches(alone)
        assert alone.run("--local").code == 0
        numbers = Numbers(alone.results)
    finally:
        alone.leave()
    assert len(numbers.numbers) > 100

    two_microbatches(ground)
    flag = ground.folder / "flag"
    ground.environment = {"PYTHONPATH": str(Path(__file__).parent / "gremlin"), "GREMLIN": f"disk:{flag}"}
    driver = ground.start(*TEAM)
    assert driver.until(ground.training)
    flag.touch()
    assert driver.until(lambda: not flag.exists()), "a disk was slow"
    began = driver.age()
    said = driver.end()
    assert said.code == 0 and not said.err, said
    assert driver.age() - began > 3 * PATIENCE_S
    assert {(p / "attempt").read_text() for p in ground.trials()} == {"1"}, "nobody gave up"
    settle(ground, "slow rank-0 upkeep with a short patience", 1, *TEAM, than=numbers)
