"""Methods against backbones and data: of a report, the tables whose columns differ in one of them.

Everything in a cell is an arm against the baseline of its own column, pair by pair.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.report import effects, tables
from harness.report.effects import Effect
from harness.report.model import Cell, Counts, MetricTable, Outcome, Report, TableReport

Place = tuple[str, str]  # setting, arm
CLEAR = 2.0  # sds of its own pairs: an effect that is called clear
MARKS = "† and ‡ as below the table itself: trials that differ in more than seed and arm, and a biased distance"
NO_CURVES = "No table at equal seconds: these trials have no curves of a distance; `eval.during` measures them."


class Cost(NamedTuple):
    """Of an arm over its baseline in %, the geometric mean over pairs that one kind of device trained."""

    time: float | None
    memory: float | None


@dataclass(frozen=True)
class Entry:
    """A cell: the effect with how it is drawn, or why there is no number."""

    effect: Effect | None
    planned: int
    why: str = ""
    look: str = effects.PLAIN
    better: bool = False
    marks: str = ""

    @property
    def whole(self) -> bool:
        """Whether all its planned pairs are in it."""
        return self.effect is not None and self.effect.n == self.planned


@dataclass(frozen=True)
class Column:
    setting: str
    label: str
    what: str  # backbone x dataset


@dataclass(frozen=True)
class Comparison:
    """One table: `cells` by metric's name and place; `equal` at equal seconds, which no certainty is drawn from."""

    table: TableReport
    columns: tuple[Column, ...]
    arms: tuple[str, ...]
    metrics: tuple[MetricTable, ...]
    cells: Mapping[tuple[str, str, str], Entry]
    cost: Mapping[Place, Cost]
    equal: Mapping[Place, Entry]
    notes: tuple[str, ...] = ()


def compare(report: Report) -> tuple[Comparison, ...]:
    """The tables with two arms or more, whose settings differ in backbone or data, as the cells of one page."""
    found = [c for t in report.tables if (c := _comparison(t)) is not None]
    # What can't be, or has no baseline, is none of the page's comparisons.
    keys = [(i, key) for i, c in enumerate(found) for key, e in c.cells.items() if e.planned or e.effect]
    entries = [found[i].cells[key] for i, key in keys]
    drawn = effects.looks([e.effect and e.effect.p for e in entries], [e.whole for e in entries])
    looks = dict(zip(keys, drawn, strict=True))
    out = []
    for i, c in enumerate(found):
        cells = {k: replace(e, look=looks.get((i, k), effects.PLAIN)) for k, e in c.cells.items()}
        marked = [MARKS] if any(e.marks for e in cells.values()) else []
        out.append(replace(c, cells=cells, notes=(*_notes(len(keys), entries), *c.notes, *marked)))
    return tuple(out)


def _comparison(t: TableReport) -> Comparison | None:
    columns, kinds = [], set()
    for setting in t.table.settings:
        outcomes = t.outcomes[setting, t.baseline] or next(
            (t.outcomes[setting, arm] for arm in t.table.arms if t.outcomes[setting, arm]), ()
        )
        if not outcomes:
            continue
        trial = outcomes[0].trial
        kinds.add((trial.backbone.name, repr(trial.dataset)))
        columns.append(Column(setting, t.label(setting), f"{trial.backbone.name} × {trial.dataset.name}"))
    arms = tuple(arm for arm in t.table.arms if arm != t.baseline)
    if len(kinds) < 2 or not arms or not t.headline:
        return None
    places = [(c.setting, arm) for c in columns for arm in arms]
    cells = {(m.name, *place): _entry(t, m, place) for m in t.headline for place in places}
    equal = {place: _at_equal_seconds(t, place) for place in places}
    if not any(e.effect for e in equal.values()):
        equal = {}
    cost = {place: _cost(_pairs(t, place)) for place in places}
    return Comparison(t, tuple(columns), arms, t.headline, cells, cost, equal, () if equal else (NO_CURVES,))


def _entry(t: TableReport, m: MetricTable, place: Place) -> Entry:
    setting, arm = place
    cell, base = m.cells[place], m.cells[setting, t.baseline]
    if (why := _without(cell, base)) is not None:
        return Entry(None, cell.pairs.planned if cell.pairs else 0, why)
    assert cell.pairs is not None
    assert cell.paired is not None
    size: Callable[[float], float] = abs if m.better == "zero" else lambda v: v
    ours, theirs = ([size(c.values[s]) for s in cell.paired.seeds] for c in (cell, base))
    if is_distance(m, t):
        effect, none = effects.ratio(ours, theirs), "a distance of 0 or less has no ratio"
    else:
        effect = effects.in_sds(ours, theirs, [size(v) for v in base.values.values()])
        none = "the baseline has no sd over seeds"
    if effect is None:
        return Entry(None, cell.pairs.planned, none)
    better = effect.mean > 0 if m.better == "higher" else effect.mean < 0
    return Entry(effect, cell.pairs.planned, better=better, marks=tables.marks(cell))


def is_distance(m: MetricTable, t: TableReport) -> bool:
    """Whether a metric is a distance between images and data, as its records say."""
    scores = (o.scores[m.name] for group in t.outcomes.values() for o in group if m.name in o.scores)
    return next(scores).name.role == "distance"


def _without(cell: Cell, base: Cell) -> str | None:
    """Why a comparison has no number; None where it has one."""
    for which, c in (("", cell), ("baseline ", base)):
        if c.not_possible is not None:
            return f"{which}{tables.IMPOSSIBLE}: {c.not_possible}"
    if cell.pairs is not None and cell.pairs.lost:
        return _lost(cell.pairs)
    if cell.paired is None:
        return f"{cell.pairs} (pairs)" if cell.pairs else tables.NOTHING
    return None


def _lost(pairs: Counts) -> str:
    """`7 of 8 pairs: 1 diverged; the rest are survivors`."""
    done, *rest = str(pairs).split(":")
    return f"{done} pairs:{':'.join(rest)}; the rest are survivors"


def _notes(cells: int, entries: Sequence[Entry]) -> list[str]:
    """What the page can say at all: how much chance alone would colour, and what certainty asks for."""
    if not cells:
        return []
    pairs = max((e.effect.n for e in entries if e.effect), default=0)
    lines = [
        f"{cells} cells on this page: without any effect about {cells * effects.ALPHA:.3g} of them would be hollow, "
        f"and at most one page in {1 / effects.ALPHA:.0f} would have a filled one (Holm over all cells)"
    ]
    enough = effects.pairs_for(CLEAR, cells)
    reach = f"an effect of {CLEAR:g} sds of its own pairs is filled from {enough} pairs on, before only a larger one"
    if pairs > 1:
        lines.append(f"at {pairs} pairs a cell is filled from |t| > {effects.needed_t(pairs, cells):.3g} on; {reach}")
        if enough is not None and pairs < enough:
            lines.append(f"{pairs} pairs are few: no cell is expected to be filled, and an empty page is no evidence")
    else:
        lines.append(f"a cell needs two pairs to be filled at all; {reach}")
    return lines


# ── cost, and equal seconds ──────────────────────────────────────────────────


def _pairs(t: TableReport, place: Place) -> list[tuple[Outcome, Outcome]]:
    """Finished pairs of an arm and its baseline that the same kind and number of devices trained."""
    base = {o.trial.seed: o for o in t.outcomes[place[0], t.baseline] if o.state == "done"}
    both = [(o, base[o.trial.seed]) for o in t.outcomes[place] if o.state == "done" and o.trial.seed in base]
    return [(a, b) for a, b in both if all(a.facts().get(k) == b.facts().get(k) for k in ("device", "world"))]


def _cost(pairs: Sequence[tuple[Outcome, Outcome]]) -> Cost:
    def over(key: str, sign: int) -> float | None:
        both = [(_number(a, key), _number(b, key)) for a, b in pairs]
        logs = [sign * math.log(x / y) for x, y in both if x and y]
        return 100 * math.expm1(math.fsum(logs) / len(logs)) if logs else None

    return Cost(over("images_per_s", -1), over("peak_memory_mib", 1))


def _number(o: Outcome, key: str) -> float | None:
    value = o.result.get("cost", {}).get(key)
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _at_equal_seconds(t: TableReport, place: Place) -> Entry:
    """The distance of curves, each pair read at the same seconds of training: the baseline's whole time, or the arm's
    where that is less."""
    group, base = t.outcomes[place], t.outcomes[place[0], t.baseline]
    planned = len({o.trial.seed for o in group} & {o.trial.seed for o in base})
    for metric in t.headline:
        if (pairs := metric.cells[place].pairs) is not None and pairs.lost:
            return Entry(None, planned, _lost(pairs))
    read = [both for a, b in _pairs(t, place) if (both := _at_the_sooner(a, b)) is not None]
    effect = effects.ratio([a for a, _ in read], [b for _, b in read])
    if effect is None:
        return Entry(None, planned, (t.table.not_possible.get(place) and tables.IMPOSSIBLE) or "no curves")
    look = effects.HOLLOW if effect.p is not None and effect.p <= effects.ALPHA else effects.PLAIN
    return Entry(effect, planned, look=look, better=effect.mean < 0)


def _at_the_sooner(arm: Outcome, base: Outcome) -> tuple[float, float] | None:
    name, rates = arm.result.get("best", {}).get("by"), [_number(o, "images_per_s") for o in (arm, base)]
    if name is None or base.result.get("best", {}).get("by") != name or None in rates:
        return None
    speeds, curves = [r for r in rates if r is not None], [_curve(o, name) for o in (arm, base)]
    if not all(curves):
        return None
    seconds = min(curve[-1][0] / r for curve, r in zip(curves, speeds, strict=True))
    ours, theirs = (effects.at(curve, seconds * r) for curve, r in zip(curves, speeds, strict=True))
    return None if ours is None or theirs is None else (ours, theirs)


def _curve(o: Outcome, name: str) -> list[tuple[float, float]]:
    """A distance over training, of the points that are positive numbers; the untrained networks' left out."""
    points = [(float(n), float(v)) for n, v in o.result.get("series", {}).get(f"eval/{name}", []) if n > 0]
    return [(n, v) for n, v in points if math.isfinite(v) and v > 0]
