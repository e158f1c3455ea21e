"""The undisturbed run, a ground per trial, and the ledger: printed at the end, and with NASHBOARD_FAULTS=FILE.md
laid over what that file already says (see `make faults`)."""

import os
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch

from harness.process import cores
from harness.trial.environment import commit
from tests.faults.ground import Ground, Harm, Numbers, Said

HEADER = ("trial", "times tried", "lost results", "differing digits", "duplicate or missing points", "stray processes")
LEDGER: dict[str, list[int]] = {}


class Calm(NamedTuple):
    """An undisturbed run: its ground, its numbers, how long it took, and when in it a trial was training."""

    ground: Ground
    numbers: Numbers
    wall_s: float
    training_s: tuple[float, float]


@pytest.fixture(scope="session")
def calm() -> Iterator[Calm]:
    ground = Ground()
    driver = ground.start()
    driver.until(ground.training)
    begun = driver.age()
    driver.until(lambda: len(ground.finished()) == 2)
    trained = driver.age()
    said = driver.end()
    assert said.code == 0, said
    made = Calm(ground, Numbers(ground.results), driver.age(), (begun, trained))
    assert len(made.numbers.numbers) > 100 and made.numbers.points.total() > 500
    assert ground.harm(made.numbers) == Harm(), "an undisturbed run is in order"
    print(f"undisturbed: {made.wall_s:.1f} s, training from {begun:.1f} to {trained:.1f} s")
    yield made
    ground.leave()


@pytest.fixture
def ground() -> Iterator[Ground]:
    made = Ground()
    yield made
    made.leave()


@pytest.fixture
def settle(calm: Calm) -> Callable[..., Said]:
    """Give the same command again and hold the outcome against the undisturbed run, or the numbers of another one."""

    def again(
        ground: Ground, name: str, tried: int, *words: str, store: Path | None = None, than: Numbers | None = None
    ) -> Said:
        said = ground.run(*words)
        harm = ground.harm(than or calm.numbers, store)
        row = LEDGER.setdefault(name, [0] * 5)
        LEDGER[name] = [a + b for a, b in zip(row, (tried, *harm), strict=True)]
        assert said.code == 0, said
        assert harm == Harm()
        return said

    return again


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not LEDGER:
        return
    terminalreporter.section("fault trials")
    for row in [HEADER, *((name, *map(str, counts)) for name, counts in LEDGER.items())]:
        terminalreporter.write_line("  ".join(cell.ljust(len(HEADER[i]) if i else 42) for i, cell in enumerate(row)))
    if file := os.environ.get("NASHBOARD_FAULTS"):
        write(Path(file))


def write(file: Path) -> None:
    """Lay this session's rows over those of `file`; every row names its commit."""
    rows = {}
    if file.exists():
        for line in re.findall(r"^\| (?!trial|-)(.*) \|$", file.read_text(), re.MULTILINE):
            name, *cells = (cell.strip() for cell in line.split("|"))
            rows[name] = cells
    rows |= {name: [*map(str, counts), commit()] for name, counts in LEDGER.items()}
    header = (*HEADER, "commit")
    machine = f"{cores()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}"
    lines = [INTRODUCTION.format(machine=machine, torch=torch.__version__, python=platform.python_version())]
    lines += [f"| {' | '.join(header)} |", "|---" + "|--:" * (len(header) - 2) + "|---|"]
    lines += [f"| {' | '.join((name, *cells))} |" for name, cells in sorted(rows.items())]
    file.write_text("\n".join(lines) + "\n")


INTRODUCTION = """\
# Fault trials

`make faults` writes this file: real processes of `cli.py matrix` on two tiny SN-DCGAN trials (`tests/faults/`),
troubled at moments that fixed seeds choose. Then the same command is given again, and everything is held against an
undisturbed run: every cell of every table, every metric and every point of every curve that no clock decides, digit for
digit; and MLflow's database against the journals, point by point and picture by picture. A stray is a process that
still runs 30 s after the last command ended. Machine: {machine}; Python {python}, torch {torch}.
"""
