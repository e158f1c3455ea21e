"""From an experiment to its unique trials. Tables are queries over trials, so a trial that
serves several tables is trained once."""

from collections.abc import Callable
from typing import NamedTuple

from harness.errors import UserError
from harness.experiment.spec import Experiment, Trial


class Cell(NamedTuple):
    """One place in a table that a trial fills."""

    table: str
    setting: str
    arm: str
    seed: int


class Entry(NamedTuple):
    """A unique trial with all the cells it serves."""

    id: str
    trial: Trial
    serves: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """What a person calls it: setting, arm and seed of the first cell it serves."""
        cell = self.serves[0]
        return f"{cell.setting}/{cell.arm}/s{cell.seed}"


def entries(experiment: Experiment, seconds: Callable[[Trial], float] = lambda trial: 0.0) -> tuple[Entry, ...]:
    """Unique trials in launch order: one seed of every cell first (a whole table early), short recipes before long
    ones, and of one recipe the trial that takes most `seconds`, so that none is left over at the end."""
    trials: dict[str, Trial] = {}
    serves: dict[str, list[Cell]] = {}
    rank: dict[str, tuple[int, float, float]] = {}
    for table in experiment.tables:
        for (setting, arm), by_seed in table.cells.items():
            for nth, trial in enumerate(by_seed):
                if trials.setdefault(trial.id, trial).eval != trial.eval:
                    raise UserError(f"table {table.name}: eval: the same training is scored otherwise in another table")
                serves.setdefault(trial.id, []).append(Cell(table.name, setting, arm, trial.seed))
                order = (nth, trial.train.total_kimg, -seconds(trial))
                rank[trial.id] = min(rank.get(trial.id, order), order)
    return tuple(Entry(i, trials[i], tuple(serves[i])) for i in sorted(trials, key=lambda i: rank[i]))
