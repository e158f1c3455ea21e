"""Two processes that are kept, and train one cell after the other: each alone, and both together.

The first trains the cell, and resumes it, while the second compares it with the baseline; then they are a team that
meets as Ray's ranks do, and the first compares what both leave with what it had left alone.
"""

import multiprocessing as mp
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from harness import outside
from harness.errors import one_line
from harness.process import ENDING, end_with_parent
from harness.training import ranks
from tests.contract import EXAMPLE, cells
from tests.contract.cells import Cell

PATIENCE_S = 300.0  # of one for the other; a cell takes seconds


class Ended(Exception):
    """One of the two is gone, or says nothing."""


class Pair:
    """`judge` one cell at a time."""

    def __init__(self, workers: list[Any], ends: list[Connection]) -> None:
        self._workers, self._ends = workers, ends
        self.cpu_s = 0.0  # of both, for the last cell

    def judge(self, cell: Cell) -> tuple[bool, str]:
        """Whether it ended as it is listed, and in words."""
        for end in self._ends:
            end.send(cell)
        first, second = (self._answer(i) for i in (0, 1))
        self.cpu_s = first[2] + second[2]
        return cells.verdict(cell, first[0], first[1] + second[1])

    def _answer(self, i: int) -> tuple[str | None, list[str], float]:
        end = self._ends[i]
        wait([end, *(worker.sentinel for worker in self._workers)], 2 * PATIENCE_S)
        if not end.poll():
            codes = [worker.exitcode for worker in self._workers]
            raise Ended(f"process {i + 1} of 2 gave no answer; exit codes {codes}")
        return end.recv()


@contextmanager
def kept(plugins: Path = EXAMPLE) -> Iterator[Pair]:
    """Both of them, with the shelves and what is in the folder `plugins`."""
    context = mp.get_context("spawn")
    way = context.SimpleQueue()
    pipes = [context.Pipe() for _ in range(2)]
    roles = (_first, _second)
    workers = [
        context.Process(target=_serve, args=(role, there, way, plugins), daemon=True)
        for role, (_, there) in zip(roles, pipes, strict=True)
    ]
    for worker in workers:
        worker.start()
    try:
        yield Pair(workers, [here for here, _ in pipes])
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _serve(role: Any, end: Connection, way: Any, plugins: Path) -> None:
    end_with_parent(*ENDING)
    torch.set_num_threads(1)
    outside.use([outside.read(plugins)])
    while True:
        cell, before = end.recv(), time.process_time()
        refused: str | None = None
        try:
            refused, faults = role(cell, way)
        except Exception as e:
            where = traceback.extract_tb(e.__traceback__)[-1]
            faults = [f"{type(e).__name__} in {where.name}, line {where.lineno}: {one_line(e, 300)}"]
        end.send((refused, faults, time.process_time() - before))


def _first(cell: Cell, way: Any) -> tuple[str | None, list[str]]:
    met = False
    try:
        refused = cells.refusal(cell)
        if refused is not None:
            return refused, []
        trial = cells.trial_of(cell)
        whole, faults = cells.alone(trial)
        way.put(ranks.meet([ranks.LOOPBACK] * 2))
        met = True
        with ranks.team(2, cells.CPU, _rest, cell, patience_s=PATIENCE_S):
            together = cells.left(cells.trained(trial))
        return None, faults + cells.told("two processes", cells.differing(whole, together))
    finally:
        if not met:
            way.put(None)


def _second(cell: Cell, way: Any) -> tuple[str | None, list[str]]:
    try:
        faults = cells.pairing(cell) if cells.refusal(cell) is None else []
    except Exception as e:
        faults = [f"paired: {type(e).__name__}: {one_line(e, 300)}"]
    meeting = way.get()
    if meeting is not None:
        ranks.follow(meeting, 1, 2, ranks.LOOPBACK, _rest, cell, patience_s=PATIENCE_S)
    return None, faults


def _rest(rank: int, cell: Cell) -> Any:
    trial = cells.trial_of(cell)
    return lambda: cells.trained(trial)
