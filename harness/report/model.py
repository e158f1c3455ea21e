"""What a report is made of: trials as they stand, cells, tables. Types, and what follows from one of them alone."""

import math
from collections import Counter
from collections.abc import Mapping
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
        """Over the last SNAPSHOTS values of series eval/<metric>, the untrained networks' left out; None below two."""
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
    """One metric of one arm in one setting, over seeds."""

    planned: int
    waiting: tuple[str, ...]  # the words of the trials that give no number
    values: Mapping[int, float]
    summary: Summary | None
    trailing: Trailing | None
    best: Best | None
    mixed: bool  # its trials, or those it is compared with, differ in more than the seed
    paired: Paired | None = None
    p_holm: float | None = None
    paper: float | None = None
    paper_difference: float | None = None
    verdict: Verdict | None = None

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
    def states(self) -> Counter[str]:
        """How many unique trials are in which state."""
        return Counter(o.state for o in self.outcomes)

    @property
    def verdicts(self) -> Counter[str]:
        """How many comparisons with the paper ended in which word."""
        cells = [c for t in self.tables for m in t.headline for c in m.cells.values()]
        return Counter(c.verdict.word for c in cells if c.verdict)
