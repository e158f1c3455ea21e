"""From trials' results to tables: what every cell holds, how it compares, and what it can't say. Of a trial that was
scored in several ways, the result of this experiment's.

Nothing else is read but a trial's state.json where there is no result yet, so a report can be
made at any moment, anywhere the results folder is, and again later from the same files.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import plugins
from harness.errors import UserError
from harness.experiment import files
from harness.experiment.matrix import Cell as Place
from harness.experiment.matrix import entries
from harness.experiment.spec import Experiment, Table, Trial
from harness.report import names, networks, record, statistics
from harness.report.model import (
    DIVERGED,
    FAILED,
    NOT_FINITE,
    Best,
    Cell,
    Counts,
    MetricTable,
    Outcome,
    Report,
    Score,
    TableReport,
    Trailing,
)
from harness.report.names import Name
from harness.report.statistics import Summary
from harness.store import code
from harness.store.folder import RESULT, answer, ended_badly


def collect(experiment: Experiment, results: Path) -> Report:
    """The state of every trial of `experiment` under `results`/trials, and its tables. Works at any moment."""
    outcomes = tuple(_outcome(e.trial, e.serves, results / "trials" / e.id) for e in entries(experiment))
    by_id = {o.trial.id: o for o in outcomes}
    paper = files.paper_results()
    return Report(experiment, tuple(_table(t, by_id, paper) for t in experiment.tables), outcomes)


# ── reading ──────────────────────────────────────────────────────────────────


def _outcome(trial: Trial, serves: tuple[Place, ...], folder: Path) -> Outcome:
    own = answer(folder, trial)
    result, live = _read(own or folder / RESULT), _read(folder / "state.json")
    record.check(live, folder / "state.json", record.STATE)
    if not result:
        begun = code.other(folder, trial, {}, accepted=False)
        return Outcome(trial, serves, folder, live.get("state", "missing"), {}, live, {}, (), begun)
    record.check(result, own or folder / RESULT)
    state = str(result.get("status")) if own else ended_badly(folder, trial) or "scored otherwise"
    scores, not_finite, facts = {}, [], json.dumps(_facts(result))
    for name, m in result.get("metrics", {}).items() if state == "done" else ():
        if isinstance(m["value"], int | float) and math.isfinite(m["value"]):
            protocol = {k: v for k, v in m.get("protocol", {}).items() if k != "seed"}
            kind = facts + json.dumps(protocol, sort_keys=True)
            about = names.of(name, m)
            scores[name] = Score(float(m["value"]), m.get("se"), m.get("better", "lower"), protocol, about, kind)
        else:
            not_finite.append(name)
    other = code.other(folder, trial, result if own else {}, accepted=False)
    return Outcome(trial, serves, folder, state, result, live, scores, tuple(not_finite), other)


def _facts(result: Mapping[str, Any]) -> dict[str, str]:
    env = result.get("env", {})
    facts = {
        "commit": env.get("commit"),
        "device": env.get("device"),
        "torch": env.get("versions", {}).get("torch"),
        "data": result.get("dataset", {}).get("fingerprint"),
        "world": result.get("world"),
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is not there yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: not readable ({e}); it is written whole, so remove it and run the trial") from None
    return found if isinstance(found, dict) else {}


# ── tables ───────────────────────────────────────────────────────────────────


def _table(table: Table, by_id: Mapping[str, Outcome], paper: Mapping[str, Any]) -> TableReport:
    outcomes = {place: tuple(by_id[t.id] for t in trials) for place, trials in table.cells.items()}
    baseline = "baseline" if "baseline" in table.arms else table.arms[0]
    found = [s.name for group in outcomes.values() for o in group for s in o.scores.values()]
    heads = {n.key for n in names.heads(found)}
    theirs = paper.get(table.paper or "", {})
    metrics = [_metric(n, n.key in heads, baseline, outcomes, theirs, table.not_possible) for n in names.order(found)]
    # Holm within the table: the headline comparisons are one family, all others another.
    corrected = _holm([m for m in metrics if m.headline]) + _holm([m for m in metrics if not m.headline])
    return TableReport(table, baseline, outcomes, tuple(corrected), tuple(_notes(table, baseline, outcomes, corrected)))


def _metric(
    name: Name,
    headline: bool,
    baseline: str,
    outcomes: Mapping[tuple[str, str], tuple[Outcome, ...]],
    theirs: Mapping[str, Any],
    not_possible: Mapping[tuple[str, str], str],
) -> MetricTable:
    scored = [o.scores[name.key] for group in outcomes.values() for o in group if name.key in o.scores]
    kinds = {s.kind: s.protocol for s in scored}
    protocols = {json.dumps(protocol, sort_keys=True): protocol for protocol in kinds.values()}
    key, apart = _paper(s.name for s in scored) if theirs else (None, None)
    cells = {}
    for (setting, arm), group in outcomes.items():
        column = theirs.get(setting, {}) if key else {}
        cells[setting, arm] = _cell(
            name.key,
            group,
            outcomes[setting, baseline] if arm != baseline else None,
            column.get(arm, {}).get(key),
            column.get(baseline, {}).get(key),
        )
        if (why := not_possible.get((setting, arm))) is not None:
            cells[setting, arm] = replace(cells[setting, arm], not_possible=why)
    return MetricTable(name.key, name.label, scored[0].better, headline, cells, tuple(protocols.values()), apart)


def _paper(names: Iterable[Name]) -> tuple[str | None, str | None]:
    """The paper's name for a metric whose records say that it is the paper's, each of them; or why its figures can't
    stand beside it (both None: nothing is said)."""
    kinds = {n.paper: n.apart for n in names}
    return (next(iter(kinds)), None) if len(kinds) == 1 and None not in kinds else (None, kinds.get(None))


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
        waiting=tuple(_word(name, o) for o in group if name not in o.scores),
        values=values,
        summary=statistics.summary(list(values.values())) if values else None,
        trailing=_pool(tails) if scored and len(tails) == len(scored) else None,
        best=best if scored and len(kept) == len(scored) else None,
        mixed=len({o.scores[name].kind for o in scored + reference}) > 1,
        biased=next(filter(None, (_biased(o.scores[name]) for o in scored)), None),
        paper=paper,
    )
    if against is None:
        return cell
    pair = statistics.paired(*_same_protocol(name, scored, reference))
    pairs = _pairs(name, group, against, pair.summary.n if pair else 0)
    difference = paper - base if paper is not None and base is not None else None
    judged = statistics.verdict(pair.differences if pair else (), difference, lost=pairs.lost) if difference else None
    return replace(
        cell, paired=None if pairs.lost else pair, pairs=pairs, paper_difference=difference, verdict=judged
    )  # fmt: skip


def _biased(score: Score) -> str | None:
    """Why a distance is not what an endless number of images would give: of N images the covariance has rank N - 1. The
    least sample that it took counts."""
    images = [n for key in ("num_fakes", "num_reals", "least") if isinstance(n := score.protocol.get(key), int)]
    if not score.name.features or not images or min(images) > score.name.features:
        return None
    return f"{min(images)} images for {score.name.features} features"


def _word(name: str, o: Outcome) -> str:
    """Why a trial gives no figure of a metric."""
    return NOT_FINITE if name in o.not_finite else o.word


def _pairs(name: str, arm: Iterable[Outcome], baseline: Iterable[Outcome], compared: int) -> Counts:
    """The planned pairs of a comparison: a pair is what the worse of its two sides is."""
    theirs = {o.trial.seed: o for o in baseline}
    both = [(o, theirs[o.trial.seed]) for o in arm if o.trial.seed in theirs]
    words = [{_word(name, o) for o in sides if name not in o.scores} for sides in both]
    diverged = sum(bool(w & set(DIVERGED)) for w in words)
    failed = sum(bool(w & set(FAILED)) and not w & set(DIVERGED) for w in words)
    return Counts(len(both), compared, diverged, failed)


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
    name = table.labels
    notes = [f"{name.get(s, s)}, {name.get(a, a)}: not possible: {why}" for (s, a), why in table.not_possible.items()]
    notes += [m.apart for m in headline if m.apart]
    for setting in table.settings:
        column = [(f"{arm} s{o.trial.seed}", o) for arm in table.arms for o in outcomes[setting, arm]]
        done = {who: o for who, o in column if o.state == "done"}
        for fact in ("commit", "device", "torch", "data", "world"):
            notes += _mixture(f"{setting}: mixed {fact}", {w: o.facts().get(fact, "unknown") for w, o in done.items()})
        for file in sorted({file for o in done.values() for file in o.plugins}):
            digests = {w: o.plugins[file][:12] for w, o in done.items() if file in o.plugins}
            notes += _mixture(f"{setting}: mixed {file}", digests)
        for m in headline:
            protocols = {w: o.scores[m.name].protocol for w, o in done.items() if m.name in o.scores}
            keys = _varying(protocols.values())
            kinds = {w: ", ".join(f"{k} {p.get(k)}" for k in keys) for w, p in protocols.items()}
            notes += _mixture(f"{setting}: {m.name} under mixed protocols, compared only within one", kinds)
        spoilt = {who: n for who, o in column if (n := o.result.get("spoilt_lines"))}
        if spoilt:
            lines = ", ".join(f"{who} ({n})" for who, n in spoilt.items())
            notes.append(f"{setting}: lines of a journal that the disk spoilt, left out of curves: {lines}")
    # Signs stand in the columns of all metrics, so what they mean stands below whatever column has one.
    if any(c.mixed for m in metrics for c in m.cells.values()):
        notes.append("† marks cells whose trials, or those they are compared with, differ in more than seed and arm")
    for m in metrics:
        if few := next((c.biased for c in m.cells.values() if c.biased), None):
            notes.append(
                f"‡ {m.label}: {few}: the covariance lacks rank, which biases a distance; compare it only with one of "
                "as many images"
            )
    notes += _same_networks(table, outcomes, metrics)
    every = [o for group in outcomes.values() for o in group]
    notes += dict.fromkeys(said for m in metrics for o in every if (said := _said(m, o)))
    if any(c.pairs and c.pairs.lost for m in metrics for c in m.cells.values()):
        notes.append(
            "where a run diverged or failed the others are survivors: their mean stands with its count, and no "
            "difference, test or verdict is drawn from them"
        )
    for arm in table.arms:
        notes += _told(arm, table, outcomes)
    if table.unnamed:
        which = ", ".join(table.labels.get(arm, arm) for arm in table.unnamed)
        notes.append(
            f"{which}: beside the paper's figures, but no profile is named in the file; they are as `profile: paper`"
        )
    for arm, changes in table.changes.items():
        also = ", ".join(f"{key}={json.dumps(value)}" for key, value in changes.items())
        notes.append(f"{table.labels.get(arm, arm)} also sets {also}")
    placed = [(f"{s}/{arm} s{o.trial.seed}", o.other_code) for (s, arm), group in outcomes.items() for o in group]
    notes += filter(None, [code.told(placed)])
    lost = sorted({n for group in outcomes.values() for o in group for n in o.not_finite})
    notes += [f"{name}: not finite in a finished trial; that trial is left out of its cell" for name in lost]
    pairs = [c.paired.summary.n for m in headline for c in m.cells.values() if c.paired]
    if pairs and max(pairs) < 6:
        notes.append(
            f"with {max(pairs)} seed{'s' * (max(pairs) > 1)} the sign-flip p can't fall below "
            f"{min(1.0, 2 / 2 ** max(pairs)):.3g}: read the intervals"
        )
    return notes


def _same_networks(
    table: Table, outcomes: Mapping[tuple[str, str], tuple[Outcome, ...]], metrics: list[MetricTable]
) -> list[str]:
    """A line for each metric that measures with a network that arms were trained with."""
    lines = []
    for m in metrics:
        arms: dict[str, dict[str, None]] = {}
        for (_, arm), group in outcomes.items():
            for o in group:
                if m.name in o.scores and (found := networks.shared(o.trial, o.scores[m.name].protocol)):
                    arms.setdefault(found, {})[table.labels.get(arm, arm)] = None
        lines += [networks.note(m.label, whose, network) for network, whose in arms.items()]
    return lines


def _said(metric: MetricTable, o: Outcome) -> str | None:
    """What a metric's record tells whoever reads its figure: `told` of its `extra`."""
    return o.result["metrics"][metric.name].get("extra", {}).get("told") if metric.name in o.scores else None


def _told(arm: str, table: Table, outcomes: Mapping[tuple[str, str], tuple[Outcome, ...]]) -> list[str]:
    """What an arm's variants say of its runs, whose logs had it at its first tick: one line for all that say the same.
    Of a run whose last tick says nothing, what the last one said that did, and when."""
    found: dict[str, list[str]] = {}
    for setting in table.settings:
        for o in outcomes[setting, arm]:
            ticks: dict[int, dict[str, Any]] = {}
            for name, points in o.result.get("series", {}).items():
                for nimg, value in points if name.startswith("loss/") else ():
                    ticks.setdefault(nimg, {})[name] = value
            saying = {nimg: said for nimg, curves in ticks.items() if (said := plugins.told(o.trial.variants, curves))}
            at = max(saying, default=0)
            when = (
                f"; in {len(saying)} of {len(ticks)} ticks, last after {at:,} images"
                if at < max(ticks, default=0)
                else ""
            )
            for text in saying.get(at, []):
                found.setdefault(text + when, []).append(f"{setting} s{o.trial.seed}")
    return [f"{table.labels.get(arm, arm)} ({', '.join(who)}): {text}" for text, who in found.items()]


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
