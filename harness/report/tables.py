"""Tables of a report as text: for the console, Markdown, CSV, and the note in MLflow."""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from harness.report.model import Cell, Counts, MetricTable, Report, TableReport, Trailing

ARROW = {"lower": "↓", "higher": "↑", "zero": "→0"}
NOTHING = "–"
IMPOSSIBLE = "not possible"
BEST = (
    "best: the snapshot with the least distance (eval.during), scored by the whole pass; chosen in hindsight, so arms "
    "are compared by the last"
)


@dataclass(frozen=True)
class Grid:
    """A table of plain text; the first `left` columns are words, the others figures."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    left: int


# ── figures as text ──────────────────────────────────────────────────────────


def decimals(value: float, uncertainty: float | None = None) -> int:
    """Decimals worth printing: as the paper's tables (2), fewer from 100 on, more where two digits of the
    uncertainty (without one: three digits of the value) need them."""
    scale = abs(uncertainty) if uncertainty else abs(value) / 10
    wanted = 1 - math.floor(math.log10(scale)) if scale > 0 else 0
    least = 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    return min(6, max(least, wanted))


def number(value: float, uncertainty: float | None = None, *, signed: bool = False) -> str:
    """`value` in the decimals that its uncertainty allows, with a true minus sign."""
    return f"{value:{'+' if signed else ''}.{decimals(value, uncertainty)}f}".replace("-", "−")


def estimate(mean: float, half: float | None, *, signed: bool = False) -> str:
    """`7.91 ± 0.31`; the mean alone where there is no interval."""
    text = number(mean, half, signed=signed)
    return text if half is None else f"{text} ± {half:.{decimals(mean, half)}f}"


def ours(cell: Cell) -> str:
    """A cell's mean and interval, or the states of its trials where it has none."""
    if cell.summary is None:
        return seeds_of(cell) if cell.not_possible is None else IMPOSSIBLE  # why stands beside it, once
    return estimate(cell.summary.mean, cell.summary.half) + marks(cell) + lacking(cell)


def marks(cell: Cell) -> str:
    """The signs whose notes stand under the table: † differs in more than seed and arm, ‡ biased."""
    return "†" * cell.mixed + "‡" * bool(cell.biased)


def seeds_of(cell: Cell) -> str:
    """`3 of 3`, or `1 of 3: diverged, running 25%`, or why there can be none."""
    if cell.not_possible is not None:
        return f"{IMPOSSIBLE}: {cell.not_possible}"
    return f"{cell.counts.done} of {cell.planned}" + (f": {waiting(cell.waiting)}" if cell.waiting else "")


def lacking(cell: Cell) -> str:
    """` (1 of 3: diverged, missing)` where a planned trial gives no figure: what stands before it is of the others."""
    return f" ({seeds_of(cell)})" if cell.waiting else ""


def difference(cell: Cell) -> str:
    """Arm minus baseline with its paired interval; where a run diverged or failed only how many pairs that leaves."""
    pair, pairs = cell.paired, cell.pairs
    text = estimate(pair.summary.mean, pair.summary.half, signed=True) if pair else NOTHING
    return text + (f" ({pairs})" if pairs and (pairs.lost or pair and pairs.done < pairs.planned) else "")


def best(cell: Cell) -> str:
    """`7.52 (320 to 400)`: the best snapshots' mean over seeds, and after how many thousand images they were taken."""
    if cell.best is None:
        return NOTHING
    first, last = min(cell.best.nimg) / 1000, max(cell.best.nimg) / 1000
    mean = math.fsum(cell.best.values) / len(cell.best.values)
    when = f"{first:g}" if first == last else f"{first:g} to {last:g}"
    return f"{number(mean, cell.summary and cell.summary.half)} ({when}){lacking(cell)}"


def paper(cell: Cell) -> str:
    """The paper's figure with its difference to the paper's baseline."""
    if cell.paper is None:
        return NOTHING
    gap = f" ({signed_paper(cell.paper_difference)})" if cell.paper_difference is not None else ""
    return f"{cell.paper:.2f}{gap}"


def signed_paper(value: float) -> str:
    """A difference of the paper's figures, which have two decimals."""
    return f"{value:+.2f}".replace("-", "−")


def verdict(cell: Cell) -> str:
    """The verdict's word with the pairs behind it: `replicated (3 of 3 pairs)`, `inconclusive (1 of 3 pairs: 2
    diverged)`; one that more seeds would settle says how many: `inconclusive (+4 seeds; 3 of 3 pairs)`."""
    if cell.verdict is None or cell.pairs is None:
        return NOTHING
    more, (done, *rest) = cell.verdict.more_seeds, str(cell.pairs).split(":")
    about = [f"+{more} seed{'s' * (more > 1)}"] if more else []
    return f"{cell.verdict.word} ({'; '.join([*about, ':'.join([f'{done} pairs', *rest])])})"


def waiting(words: Iterable[str]) -> str:
    """`2 missing, diverged`."""
    counts = Counter(words)
    return ", ".join(f"{n} {w}" if n > 1 else w for w, n in counts.items()) or NOTHING


def states(t: TableReport, setting: str, arm: str) -> str:
    """What became of a place that no trial has given a figure, in words."""
    if (why := t.table.not_possible.get((setting, arm))) is not None:
        return f"{IMPOSSIBLE}: {why}"
    return waiting(o.word for o in t.outcomes[setting, arm])


def seeds(t: TableReport, setting: str, arm: str) -> str:
    """`3`, or `1 of 3: running 40%, missing`, or why there can be none."""
    group = t.outcomes[setting, arm]
    done = sum(o.state == "done" for o in group)
    if not group:
        return states(t, setting, arm)
    return (
        str(done) if done == len(group) else f"{done} of {len(group)}: {waiting(o.word for o in group if not o.scores)}"
    )


# ── grids ────────────────────────────────────────────────────────────────────


def grid(t: TableReport) -> Grid:
    """Settings and arms as rows; per headline metric ours, the paired difference, the paper's, the verdict."""
    several = len(t.table.settings) > 1
    header = ["Setting"] * several + ["Arm", "Seeds"]
    against = "vs baseline" if t.baseline == "baseline" else f"vs {t.label(t.baseline)}"
    for m in t.headline:
        header += [f"{m.label} {ARROW[m.better]}", against] + ["best (kimg)"] * has_best(m)
        header += ["paper", "verdict"] * beside_paper(m)
    rows = []
    for setting in t.table.settings:
        for arm in t.table.arms:
            row = [t.label(setting)] * several + [t.label(arm), seeds(t, setting, arm)]
            for m in t.headline:
                cell = m.cells[setting, arm]
                row += [ours(cell), difference(cell)] + [best(cell)] * has_best(m)
                row += [paper(cell), verdict(cell)] if beside_paper(m) else []
            rows.append(tuple(row))
    about = ["mean over seeds ± half of the 95 % t-interval; differences are paired by seed"]
    if any(has_best(m) for m in t.headline):
        about.append(BEST)
    notes = (*about, *tails(t), *t.notes)
    return Grid(t.table.title, tuple(header), tuple(rows), notes, 2 + several)


def secondary(t: TableReport) -> Grid | None:
    """All other metrics, one column each; None where there are none."""
    rest = [m for m in t.metrics if not m.headline]
    if not rest:
        return None
    several = len(t.table.settings) > 1
    rows = [
        (*[t.label(setting)] * several, t.label(arm), *(ours(m.cells[setting, arm]) for m in rest))
        for setting in t.table.settings
        for arm in t.table.arms
    ]
    header = (*["Setting"] * several, "Arm", *(f"{m.label} {ARROW[m.better]}" for m in rest))
    return Grid(f"{t.table.title}: other metrics", header, tuple(rows), (), 1 + several)


def has_best(m: MetricTable) -> bool:
    """Was a best snapshot scored in any cell of this metric?"""
    return any(c.best for c in m.cells.values())


def beside_paper(m: MetricTable) -> bool:
    """Does any figure of the paper stand beside this metric?"""
    return any(c.paper is not None for c in m.cells.values())


def tails(t: TableReport) -> list[str]:
    """What the last snapshots say of metrics that move between them, as notes."""
    notes = []
    for m in t.headline:
        parts = [
            f"{t.label(s)}, {t.label(a)}: {trailing(c.trailing)}{lacking(c)}"
            for (s, a), c in m.cells.items()
            if c.trailing
        ]
        if parts:
            count = max(c.trailing.snapshots for c in m.cells.values() if c.trailing)
            notes.append(f"{m.label} over the last {count} snapshots, mean and sd within a run: {'; '.join(parts)}")
    return notes


def trailing(t: Trailing) -> str:
    """`2.49 (sd 0.35)`."""
    return f"{number(t.mean, t.sd)} (sd {t.sd:.{decimals(t.mean, t.sd)}f})"


# ── formats ──────────────────────────────────────────────────────────────────


def markdown(t: TableReport, *, notes: bool = True) -> str:
    """The table, its other metrics and notes as GitHub-flavoured Markdown."""
    main, rest = grid(t), secondary(t)
    text = f"## {main.title}\n\n{pipes(main)}"
    if rest:
        text += f"\n### Other metrics\n\n{pipes(rest)}"
    return text + ("\n" + "".join(f"- {n}\n" for n in main.notes) if notes else "")


def note(report: Report, limit: int = 7500) -> str:
    """The Markdown at the top of MLflow's parent run, at most `limit` characters: MLflow cuts tags at 8,000.

    Notes, then other metrics, then whole tables are left out, and the text says so.
    """
    head = f"# {report.experiment.name}\n\n{status(report)}\n\n"
    left_out = "\n(shortened; the whole tables are in report.html)\n"
    tries = (
        [markdown(t) for t in report.tables],
        [markdown(t, notes=False) for t in report.tables],
        [f"## {grid(t).title}\n\n{pipes(grid(t))}" for t in report.tables],
    )
    for i, parts in enumerate(tries):
        text = head + "\n".join(parts) + left_out * (i > 0)
        if len(text) <= limit:
            return text
    while parts and len(head + "\n".join(parts) + left_out) > limit:
        parts.pop()
    return head + "\n".join(parts) + left_out


def status(report: Report) -> str:
    """`12 of 18 trials done, 2 running, 4 missing`."""
    states = report.states
    rest = "".join(f", {n} {s}" for s, n in states.items() if s != "done")
    return f"{states['done']} of {sum(states.values())} trials done{rest}"


def pipes(g: Grid) -> str:
    """The grid alone as a Markdown table."""
    rule = ["---" if i < g.left else "---:" for i in range(len(g.header))]
    lines = [[_cell(c) for c in g.header], rule, *([_cell(c) for c in row] for row in g.rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    """A user's words in a Markdown table: no sign of them ends the cell or becomes markup."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(text.split())).replace("<", "&lt;")
    return re.sub(r"([\\`*|\[\]~])", r"\\\1", text)


def cells_csv(t: TableReport) -> str:
    """One row a cell and metric, with every statistic behind the table."""
    rows = []
    for m in t.metrics:
        for (setting, arm), c in m.cells.items():
            own, pair = c.summary, c.paired
            rows.append(
                {
                    "table": t.table.name, "setting": setting, "arm": arm, "metric": m.name, "better": m.better,
                    "planned": c.planned, **outcome(c.counts), "n": own.n if own else 0,
                    "mean": own and own.mean, "sd": own and own.sd,
                    "low": own and own.low, "high": own and own.high,
                    "snapshots": c.trailing and c.trailing.snapshots,
                    "snapshots_mean": c.trailing and c.trailing.mean, "snapshots_sd": c.trailing and c.trailing.sd,
                    "pairs": c.pairs.done if c.pairs else 0,
                    **{f"pairs_{k}": v for k, v in outcome(c.pairs or Counts(0, 0)).items() if k != "done"},
                    "difference": pair and pair.summary.mean,
                    "difference_sd": pair and pair.summary.sd, "difference_low": pair and pair.summary.low,
                    "difference_high": pair and pair.summary.high, "effect_size": pair and pair.effect,
                    "p_t": pair and pair.p_t, "p_holm": c.p_holm, "p_sign_flip": pair and pair.p_flip,
                    "precise_seeds": c.precise_seeds, "paper": c.paper, "paper_difference": c.paper_difference,
                    "verdict": c.verdict and c.verdict.word, "more_seeds": c.verdict and c.verdict.more_seeds,
                    "mixed": c.mixed, "biased": c.biased or "",
                    "waiting": waiting(c.waiting) if c.waiting else "", "not_possible": c.not_possible or "",
                }
            )  # fmt: skip
    return _csv(rows)


def outcome(c: Counts) -> dict[str, int]:
    """How many of those planned ended how, as columns."""
    return {"done": c.done, "diverged": c.diverged, "failed": c.failed, "missing": c.missing}


def results_csv(report: Report) -> str:
    """One row a trial: what it serves, its state, every metric with its standard error and protocol's hash."""
    metrics = sorted({m for o in report.outcomes for m in o.scores})
    rows = []
    for o in report.outcomes:
        cost, facts, kept = o.result.get("cost", {}), o.facts(), o.result.get("best", {})
        row: dict[str, Any] = {
            "id": o.trial.id, "seed": o.trial.seed, "state": o.word, "reason": o.reason,
            "serves": " ".join(f"{p.table}/{p.setting}/{p.arm}" for p in o.serves),
            "dataset": o.trial.dataset.name, "backbone": o.trial.backbone.name, "conditional": o.trial.conditional,
            "variants": "+".join(v.name for v in o.trial.variants), "precision": o.trial.train.precision,
            "nimg": o.result.get("nimg", o.live.get("nimg")), **facts,
        }  # fmt: skip
        for m in metrics:
            score, tail = o.scores.get(m), o.trailing(m)
            row |= {m: score and score.value, f"{m}.se": score and score.se}
            row[f"{m}.protocol"] = fingerprint(score.protocol) if score else None
            row |= {f"{m}.snapshots_mean": tail.mean, f"{m}.snapshots_sd": tail.sd} if tail else {}
            row |= {f"{m}.best": kept["metrics"][m]["value"]} if m in kept.get("metrics", {}) else {}
        row |= {"best.nimg": kept["nimg"], "best.by": kept["by"]} if kept else {}
        rows.append(row | {f"cost.{k}": v for k, v in cost.items()})
    return _csv(rows)


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """8 hex digits that two measurements share exactly when their protocols are equal."""
    return sha256(json.dumps(dict(protocol), sort_keys=True).encode()).hexdigest()[:8]


def _csv(rows: list[dict[str, Any]]) -> str:
    """All keys of all rows as columns, in order of appearance; None is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(k for row in rows for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
