"""From result.json files to tables: what every cell holds, how it compares, and what it can't say.

Nothing else is read but a trial's state.json where there is no result yet, so a report can be
made at any moment, anywhere the results folder is, and again later from the same files.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from harness import files, ids, statistics
from harness.checkpoint import write_atomic
from harness.config import Experiment, Table, Trial
from harness.errors import UserError
from harness.matrix import Cell as Place
from harness.matrix import entries
from harness.statistics import Paired, Summary, Verdict

SNAPSHOTS = 5  # K: the last snapshots whose mean and sd stand beside a final value
PAPER_FAKES = 50_000  # against all reals
PAPER_DRAWS = (64, 200)  # images of either kind a draw, draws


class Score(NamedTuple):
    """One metric of one trial as its result.json gives it."""

    value: float
    se: float | None
    better: str  # "lower", "higher" or "zero"
    protocol: Mapping[str, Any]  # but for the seed, in which the trials of a cell are meant to differ
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
        """What must agree among trials that are averaged or compared."""
        return _facts(self.result)

    def trailing(self, metric: str) -> Summary | None:
        """Over the last SNAPSHOTS values of series eval/<metric>; None below two."""
        points = self.result.get("series", {}).get(f"eval/{metric}", [])[-SNAPSHOTS:]
        values = [float(v) for _, v in points]
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
    """One metric over all cells of a table. `apart`: why the paper's figures do not stand beside it."""

    name: str
    better: str
    headline: bool
    cells: Mapping[tuple[str, str], Cell]
    protocols: tuple[Mapping[str, Any], ...]
    apart: str | None


@dataclass(frozen=True)
class TableReport:
    """A table of the experiment with all its metrics, the headline ones (FID or FD, then DI) first."""

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


def collect(experiment: Experiment, results: Path) -> Report:
    """The state of every trial of `experiment` under `results`/trials, and its tables. Works at any moment."""
    outcomes = tuple(_outcome(e.trial, e.serves, results / "trials" / e.id) for e in entries(experiment))
    by_id = {o.trial.id: o for o in outcomes}
    paper = files.paper_results()
    return Report(experiment, tuple(_table(t, by_id, paper) for t in experiment.tables), outcomes)


def write(report: Report, results: Path) -> list[Path]:
    """Write tables/*.md|csv|tex, results.csv and report.html under `results`/<experiment>; returns their paths."""
    from harness import page, tables

    folder = results / report.experiment.name
    files = {"results.csv": tables.results_csv(report), "report.html": page.html(report)}
    for t in report.tables:
        files[f"tables/{t.table.name}.md"] = tables.markdown(t)
        files[f"tables/{t.table.name}.csv"] = tables.cells_csv(t)
        files[f"tables/{t.table.name}.tex"] = tables.latex(t)
    try:
        for name, text in files.items():
            write_atomic(folder / name, text.encode())
    except OSError as e:
        raise UserError(f"{folder}: {e.strerror}; the report needs a folder it can write to") from None
    return [folder / name for name in files]


# ── reading ──────────────────────────────────────────────────────────────────


def _outcome(trial: Trial, serves: tuple[Place, ...], folder: Path) -> Outcome:
    result, live = _read(folder / "result.json"), _read(folder / "state.json")
    if not result:
        return Outcome(trial, serves, folder, live.get("state", "missing"), {}, live, {}, ())
    state = str(result.get("status"))
    if not ids.scored_as(result, trial.eval):
        state = "scored otherwise"
    scores, not_finite, facts = {}, [], json.dumps(_facts(result))
    for name, m in result.get("metrics", {}).items() if state == "done" else ():
        if isinstance(m["value"], int | float) and math.isfinite(m["value"]):
            protocol = {k: v for k, v in m.get("protocol", {}).items() if k != "seed"}
            kind = facts + json.dumps(protocol, sort_keys=True)
            scores[name] = Score(float(m["value"]), m.get("se"), m.get("better", "lower"), protocol, kind)
        else:
            not_finite.append(name)
    return Outcome(trial, serves, folder, state, result, live, scores, tuple(not_finite))


def _facts(result: Mapping[str, Any]) -> dict[str, str]:
    env = result.get("env", {})
    facts = {
        "commit": env.get("commit"),
        "device": env.get("device"),
        "torch": env.get("versions", {}).get("torch"),
        "data": result.get("dataset", {}).get("fingerprint"),
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is not there yet."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: not readable ({e}); it is written whole, so remove it and run the trial") from None
    return found if isinstance(found, dict) else {}


# ── tables ───────────────────────────────────────────────────────────────────


def order(metrics: Iterable[str]) -> tuple[list[str], int]:
    """Metric names, headline ones first, and how many those are: FID (else FD), then DI."""
    names = sorted(set(metrics))
    distances = [n for kind in ("fid", "fd_") for n in sorted(names, key=_most_fakes) if n.startswith(kind)]
    headline = distances[:1] + [n for n in names if n == "di"]
    rest = [n for n in names if n not in headline]
    return headline + sorted(rest, key=lambda n: (not n.startswith("di"), n not in distances, n)), len(headline)


def _most_fakes(name: str) -> tuple[bool, str]:
    return name != "fid50k_full", name


def _table(table: Table, by_id: Mapping[str, Outcome], paper: Mapping[str, Any]) -> TableReport:
    outcomes = {place: tuple(by_id[t.id] for t in trials) for place, trials in table.cells.items()}
    baseline = "baseline" if "baseline" in table.arms else table.arms[0]
    names, headline = order(name for group in outcomes.values() for o in group for name in o.scores)
    theirs = paper.get(table.paper or "", {})
    metrics = [_metric(table, n, i < headline, baseline, outcomes, theirs) for i, n in enumerate(names)]
    # Holm within the table: the headline comparisons are one family, all others another.
    corrected = _holm([m for m in metrics if m.headline]) + _holm([m for m in metrics if not m.headline])
    return TableReport(table, baseline, outcomes, tuple(corrected), tuple(_notes(table, baseline, outcomes, corrected)))


def _metric(
    table: Table,
    name: str,
    headline: bool,
    baseline: str,
    outcomes: Mapping[tuple[str, str], tuple[Outcome, ...]],
    theirs: Mapping[str, Any],
) -> MetricTable:
    scored = [o for group in outcomes.values() for o in group if name in o.scores]
    kinds = {o.scores[name].kind: o.scores[name].protocol for o in scored}
    protocols = {json.dumps(protocol, sort_keys=True): protocol for protocol in kinds.values()}
    key, apart = _paper_key(name, table, protocols.values())
    cells = {}
    for (setting, arm), group in outcomes.items():
        column = theirs.get(setting, {}) if key else {}
        cells[setting, arm] = _cell(
            name,
            group,
            outcomes[setting, baseline] if arm != baseline else None,
            column.get(arm, {}).get(key),
            column.get(baseline, {}).get(key),
        )
    return MetricTable(name, scored[0].scores[name].better, headline, cells, tuple(protocols.values()), apart)


def _paper_key(metric: str, table: Table, protocols: Iterable[Mapping[str, Any]]) -> tuple[str | None, str | None]:
    """The paper's name for `metric`, or why its figures can't stand beside it (both None: it has no such figure)."""
    if table.paper is None or not metric.startswith(("fid", "fd_")) and metric != "di":
        return None, None
    if metric == "di":
        if all((p.get("n"), p.get("repeats")) == PAPER_DRAWS for p in protocols):
            return "di", None
        return None, "the paper's DI is a mean over 200 draws of 64 + 64 images: di is not comparable"
    if metric.startswith("fd_"):
        return None, f"{metric} is a Fréchet distance on other features than Inception's: not comparable with an FID"
    evals = [t.eval for trials in table.cells.values() for t in trials]
    if metric == "fid50k_full" and all(e.num_fakes == PAPER_FAKES and e.num_reals is None for e in evals):
        return "fid", None
    return None, f"the paper's FID takes 50,000 generated images against all reals: {metric} is not comparable"


def _cell(
    name: str, group: tuple[Outcome, ...], against: tuple[Outcome, ...] | None, paper: float | None, base: float | None
) -> Cell:
    scored = [o for o in group if name in o.scores]
    reference = [o for o in against or () if name in o.scores]
    values = {o.trial.seed: o.scores[name].value for o in scored}
    tails = [t for o in scored if (t := o.trailing(name))]
    kept = [o.result["best"] for o in scored if name in o.result.get("best", {}).get("metrics", {})]
    best = Best(tuple(b["metrics"][name]["value"] for b in kept), tuple(b["nimg"] for b in kept))
    cell = Cell(
        planned=len(group),
        waiting=tuple("not finite" if name in o.not_finite else o.word for o in group if name not in o.scores),
        values=values,
        summary=statistics.summary(list(values.values())) if values else None,
        trailing=_pool(tails) if scored and len(tails) == len(scored) else None,
        best=best if scored and len(kept) == len(scored) else None,
        mixed=len({o.scores[name].kind for o in scored + reference}) > 1,
        paper=paper,
    )
    if against is None:
        return cell
    pair = statistics.paired(*_same_protocol(name, scored, reference))
    difference = paper - base if paper is not None and base is not None else None
    judged = statistics.verdict(pair.differences if pair else (), difference) if difference else None
    return replace(cell, paired=pair, paper_difference=difference, verdict=judged)


def _same_protocol(name: str, arm: list[Outcome], baseline: list[Outcome]) -> tuple[dict[int, float], dict[int, float]]:
    """{seed: value} of both, without a pair whose two sides were measured under different protocols."""
    theirs = {o.trial.seed: o.scores[name] for o in baseline}
    ours = {o.trial.seed: o.scores[name] for o in arm}
    pairs = {s for s in ours.keys() & theirs.keys() if ours[s].protocol == theirs[s].protocol}
    return {s: ours[s].value for s in pairs}, {s: theirs[s].value for s in pairs}


def _pool(tails: list[Summary]) -> Trailing:
    mean = math.fsum(t.mean for t in tails) / len(tails)
    within = math.fsum((t.sd or 0.0) ** 2 for t in tails) / len(tails)
    return Trailing(min(t.n for t in tails), mean, math.sqrt(within))


def _holm(metrics: list[MetricTable]) -> list[MetricTable]:
    places = [(i, place) for i, m in enumerate(metrics) for place, c in m.cells.items() if _p(c) is not None]
    adjusted = statistics.holm([p for i, place in places if (p := _p(metrics[i].cells[place])) is not None])
    cells = [dict(m.cells) for m in metrics]
    for (i, place), p in zip(places, adjusted, strict=True):
        cells[i][place] = replace(cells[i][place], p_holm=p)
    return [replace(m, cells=c) for m, c in zip(metrics, cells, strict=True)]


def _p(cell: Cell) -> float | None:
    return cell.paired.p_t if cell.paired else None


# ── notes ────────────────────────────────────────────────────────────────────


def _notes(
    table: Table,
    baseline: str,
    outcomes: Mapping[tuple[str, str], tuple[Outcome, ...]],
    metrics: list[MetricTable],
) -> list[str]:
    """What a reader of the table must know: mixtures, gaps, and limits of so few seeds."""
    headline = [m for m in metrics if m.headline]
    notes = [m.apart for m in headline if m.apart]
    for setting in table.settings:
        column = [(f"{arm} s{o.trial.seed}", o) for arm in table.arms for o in outcomes[setting, arm]]
        done = {who: o for who, o in column if o.state == "done"}
        for fact in ("commit", "device", "torch", "data"):
            notes += _mixture(f"{setting}: mixed {fact}", {w: o.facts().get(fact, "unknown") for w, o in done.items()})
        for m in headline:
            protocols = {w: o.scores[m.name].protocol for w, o in done.items() if m.name in o.scores}
            keys = _varying(protocols.values())
            kinds = {w: ", ".join(f"{k} {p.get(k)}" for k in keys) for w, p in protocols.items()}
            notes += _mixture(f"{setting}: {m.name} under mixed protocols, compared only within one", kinds)
    if any(c.mixed for m in headline for c in m.cells.values()):
        notes.append("† marks cells whose trials, or those they are compared with, differ in more than seed and arm")
    lost = sorted({n for group in outcomes.values() for o in group for n in o.not_finite})
    notes += [f"{name}: not finite in a finished trial; that trial is left out of its cell" for name in lost]
    pairs = [c.paired.summary.n for m in headline for c in m.cells.values() if c.paired]
    if pairs and max(pairs) < 6:
        notes.append(
            f"with {max(pairs)} seed{'s' * (max(pairs) > 1)} the sign-flip p can't fall below "
            f"{min(1.0, 2 / 2 ** max(pairs)):.3g}: read the intervals"
        )
    return notes


def _mixture(title: str, kinds: Mapping[str, str]) -> list[str]:
    """One line naming each kind with its trials, {trial: kind}, where there is more than one kind."""
    groups: dict[str, list[str]] = {}
    for who, kind in kinds.items():
        groups.setdefault(kind, []).append(who)
    if len(groups) < 2:
        return []
    return [f"{title}: " + "; ".join(f"{kind} ({', '.join(who)})" for kind, who in groups.items())]


def _varying(protocols: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys whose values differ."""
    protocols = list(protocols)
    keys = sorted({k for p in protocols for k in p})
    return [k for k in keys if len({json.dumps(p.get(k), sort_keys=True) for p in protocols}) > 1]
