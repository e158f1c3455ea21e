"""What a report is made of: trials as they stand, cells, tables. Types, and what follows from one of them alone."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.experiment.matrix import Cell as Place
from harness.experiment.spec import Experiment, Table, Trial
from harness.report import statistics
from harness.report.names import Name
from harness.report.statistics import Paired, Summary, Verdict
from harness.store.code import Other

SNAPSHOTS = 5  # K: the last snapshots whose mean and sd stand beside a final value
DIVERGED = ("diverged", "not finite")  # words of a trial that ended in a value that is no number
FAILED = ("failed", "oom", "timeout", "hung")  # of one that was given up
NOT_FINITE = "not finite"  # of a finished trial in whose metric the value is no number


class Counts(NamedTuple):
    """How many of the planned trials of a cell, or pairs of a comparison, ended how; the four sum up to `planned`.

    A run that diverged is a result, and one that failed may be one: neither gives a figure, and what is left after
    them are survivors. `missing`: no end yet, or a result that answers another question.
    """

    planned: int
    done: int
    diverged: int = 0
    failed: int = 0

    @property
    def missing(self) -> int:
        return self.planned - self.done - self.diverged - self.failed

    @property
    def lost(self) -> int:
        """Those that ended for good without a figure."""
        return self.diverged + self.failed

    def __str__(self) -> str:
        """`5 of 5`, or `2 of 5: 2 diverged, 1 missing`."""
        parts = {"diverged": self.diverged, "failed": self.failed, "missing": self.missing}
        rest = ", ".join(f"{n} {word}" for word, n in parts.items() if n)
        return f"{self.done} of {self.planned}" + (f": {rest}" if rest else "")


def counts(planned: int, without: Iterable[str]) -> Counts:
    """Of `planned` trials those are done that are not among the words of the trials `without` a figure."""
    words = list(without)
    diverged, failed = (sum(w in kind for w in words) for kind in (DIVERGED, FAILED))
    return Counts(planned, planned - len(words), diverged, failed)


class Score(NamedTuple):
    """One metric of one trial as its result.json gives it."""

    value: float
    se: float | None
    better: str  # "lower", "higher" or "zero"
    protocol: Mapping[str, Any]  # but for the seed, in which the trials of a cell are meant to differ
    name: Name
    kind: str  # the protocol and the facts of its trial, as text: what must agree where values are averaged


@dataclass(frozen=True)
class Outcome:
    """One trial as it stands on disk. `state` is done, diverged, missing, `scored otherwise` (its result
    answers another `eval`), or a word of state.json; only `done` has scores."""

    trial: Trial
    serves: tuple[Place, ...]
    folder: Path
    state: str
    result: Mapping[str, Any]
    live: Mapping[str, Any]
    scores: Mapping[str, Score]
    not_finite: tuple[str, ...]
    other_code: Other = Other()

    @property
    def word(self) -> str:
        """The state as a table shows it: a running trial says how far it is."""
        nimg, total = self.live.get("nimg"), self.live.get("total_nimg")
        return f"running {nimg / total:.0%}" if self.state == "running" and nimg and total else self.state

    @property
    def reason(self) -> str:
        """Why there is no number, in the trial's own words."""
        return str(self.result.get("reason") or self.live.get("message") or "")

    def facts(self) -> dict[str, str]:
        """What must agree among trials that are averaged or compared, and the files from outside behind this one."""
        env = self.result.get("env", {})
        facts = {
            "commit": env.get("commit"),
            "device": env.get("device"),
            "torch": env.get("versions", {}).get("torch"),
            "data": self.result.get("dataset", {}).get("fingerprint"),
            "world": ", ".join(map(str, self.result.get("world") or ())) or None,  # processes that trained it together
            "plugins": ", ".join(f"{file} {digest[:12]}" for file, digest in self.plugins.items()) or None,
        }
        return {name: str(value) for name, value in facts.items() if value is not None}

    @property
    def plugins(self) -> Mapping[str, str]:
        """Plugins from outside that the trial used: {"variants/y.py": sha256}. Arms differ in them, as they should."""
        return self.result.get("env", {}).get("plugins", {})

    def trailing(self, metric: str) -> Summary | None:
        """Over the last SNAPSHOTS values of series eval/<metric>, the untrained networks' left out; None below two, and
        where they are of another G (raw, averaged) than the one that is scored."""
        scored = "raw" if self.trial.eval.weights == "raw" or self.trial.train.ema_kimg is None else "ema"
        if self.result.get("snapshots_of") not in (None, scored):
            return None
        points = [v for nimg, v in self.result.get("series", {}).get(f"eval/{metric}", []) if nimg > 0]
        values = [float(v) for v in points[-SNAPSHOTS:]]
        return statistics.summary(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


class Best(NamedTuple):
    """The same metric of the snapshots that `eval.during` found best, and after how many images they were taken."""

    values: tuple[float, ...]
    nimg: tuple[int, ...]


class Trailing(NamedTuple):
    """The last snapshots of a cell's runs: mean over all, and the typical (root mean square) sd within a run."""

    snapshots: int
    mean: float
    sd: float


@dataclass(frozen=True)
class Cell:
    """One metric of one arm in one setting, over seeds.

    `paired` and the t-verdict are of comparisons in which no run was lost: differences of survivors are positive by
    the choice of what survived. `pairs` counts the comparison's planned pairs, whatever became of them.
    """

    planned: int
    waiting: tuple[str, ...]  # the words of the trials that give no number
    values: Mapping[int, float]
    summary: Summary | None
    trailing: Trailing | None
    best: Best | None
    mixed: bool  # its trials, or those it is compared with, differ in more than the seed
    biased: str | None = None  # why its figures are not what an endless number of images would give
    paired: Paired | None = None
    pairs: Counts | None = None  # None: nothing to compare with
    p_holm: float | None = None
    paper: float | None = None
    paper_difference: float | None = None
    verdict: Verdict | None = None
    not_possible: str | None = None  # why there is no trial

    @property
    def counts(self) -> Counts:
        return counts(self.planned, self.waiting)

    @property
    def precise_seeds(self) -> int | None:
        """Seeds for an interval of the difference of +- half the paper's difference (else half our own)."""
        reference = abs(self.paper_difference or (self.paired.summary.mean if self.paired else 0)) / 2
        sd = self.paired.summary.sd if self.paired else None
        return statistics.seeds_for(sd, reference) if sd is not None and reference else None


@dataclass(frozen=True)
class MetricTable:
    """One metric over all cells of a table: its `name` in result.json, its `label` for a person. `apart`: why the
    paper's figures do not stand beside it."""

    name: str
    label: str
    better: str
    headline: bool
    cells: Mapping[tuple[str, str], Cell]
    protocols: tuple[Mapping[str, Any], ...]
    apart: str | None


@dataclass(frozen=True)
class TableReport:
    """A table of the experiment with all its metrics, the headline ones (a distance, then DI) first."""

    table: Table
    baseline: str
    outcomes: Mapping[tuple[str, str], tuple[Outcome, ...]]
    metrics: tuple[MetricTable, ...]
    notes: tuple[str, ...]

    @property
    def headline(self) -> tuple[MetricTable, ...]:
        return tuple(m for m in self.metrics if m.headline)

    def label(self, key: str) -> str:
        """The name that a person reads for an arm or a setting."""
        return self.table.labels.get(key, key.replace("_", " ").capitalize() if key == self.baseline else key)


@dataclass(frozen=True)
class Report:
    experiment: Experiment
    tables: tuple[TableReport, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def begun(self) -> bool:
        """Whether there is a trace of any trial."""
        return any(o.state != "missing" for o in self.outcomes)

    @property
    def states(self) -> Counter[str]:
        """How many unique trials are in which state."""
        return Counter(o.state for o in self.outcomes)

    @property
    def verdicts(self) -> Counter[str]:
        """How many comparisons with the paper ended in which word."""
        cells = [c for t in self.tables for m in t.headline for c in m.cells.values()]
        return Counter(c.verdict.word for c in cells if c.verdict)
