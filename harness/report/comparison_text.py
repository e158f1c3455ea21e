"""The comparison of methods as text: cells, Markdown, LaTeX."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from harness.report import effects, tables
from harness.report import latex as tex
from harness.report.comparison import Comparison, Cost, Entry, is_distance
from harness.report.tables import Grid

MARK = {effects.FILLED: " ●", effects.HOLLOW: " ○", effects.PLAIN: ""}
KEY = "● certain within the page (Holm over all its cells), ○ only by itself, or before all its pairs are there"
PERCENT = "change of the distance against the column's own baseline in %: exp(mean of log ratios of pairs) − 1"
SDS = "difference to the column's own baseline in sds of that baseline over its seeds"
EQUAL = (
    "the distance of short passes while training (eval.during), each pair at equal seconds: those that the baseline "
    "trained, or the arm where it took fewer; by pairs, as above; looks along the way, so none is ever filled"
)
OVER = "cost: time and peak memory over the baseline's, measured, of pairs on the same device"


class Part(NamedTuple):
    """One table of the comparison: its title, what its figures are, its cells, and the costs beside them."""

    title: str
    about: str
    cell: Callable[[str, str], Entry]
    percent: bool
    cost: bool


def parts(c: Comparison) -> Iterator[Part]:
    """The tables by metric, costs beside the first, then the one at equal seconds, which is none of them."""
    for i, m in enumerate(c.metrics):
        percent, title = is_distance(m, c.table), f"{m.label} {tables.ARROW[m.better]}"
        yield Part(title, PERCENT if percent else SDS, partial(_of, c, m.name), percent, i == 0)
    if c.equal:
        yield Part("At equal seconds of training", EQUAL, lambda s, a: c.equal[s, a], percent=True, cost=False)


def _of(c: Comparison, metric: str, setting: str, arm: str) -> Entry:
    return c.cells[metric, setting, arm]


def figure(e: Entry, percent: bool) -> str:
    """`−12.3 %`, `+0.8 sd`, or why there is no number."""
    return f"{_number(e.effect.mean, percent)} {'%' if percent else 'sd'}{e.marks}" if e.effect else e.why


def about(e: Entry, percent: bool) -> str:
    """`[−20.1, −3.7], n 3`, of fewer pairs than planned `n 2 of 3`."""
    if e.effect is None:
        return ""
    n = f"n {e.effect.n}" + (f" of {e.planned}" if not e.whole else "")
    if e.effect.low is None or e.effect.high is None:
        return n
    return f"[{_number(e.effect.low, percent)}, {_number(e.effect.high, percent)}], {n}"


def cost(c: Cost) -> str:
    """`time +34 %, memory +5 %`."""
    found = {"time": c.time, "memory": c.memory}
    return ", ".join(f"{k} {f'{v:+.0f}'.replace('-', '−')} %" for k, v in found.items() if v is not None)


def _number(value: float, percent: bool) -> str:
    text = "far above" if value > 1e6 else f"{value:+.{1 if percent else 2}f}"
    return text.replace("-", "−")


def grids(c: Comparison) -> Iterator[Grid]:
    """Each part as a table of text."""
    for part in parts(c):
        rows = []
        for arm in c.arms:
            cells = []
            for column in c.columns:
                e = part.cell(column.setting, arm)
                lines = [figure(e, part.percent) + MARK[e.look], about(e, part.percent)]
                lines.append(cost(c.cost[column.setting, arm]) if part.cost else "")
                cells.append("; ".join(filter(None, lines)))
            rows.append((c.table.label(arm), *cells))
        heads = [f"{column.label} ({column.what})" for column in c.columns]
        notes = (part.about, *([OVER] if part.cost else []))
        yield Grid(part.title, ("Method", *heads), tuple(rows), notes, 1)


def markdown(c: Comparison) -> str:
    """Every part as GitHub-flavoured Markdown, with what the page can say at all."""
    text = f"## {c.table.table.title}: methods compared\n"
    for g in grids(c):
        text += f"\n### {g.title}\n\n{tables.pipes(g)}\n" + "".join(f"- {n}\n" for n in g.notes)
    return text + "\n" + "".join(f"- {n}\n" for n in (KEY, *c.notes))


def latex(c: Comparison) -> str:
    """A booktabs table for each part, one below the other; needs booktabs."""
    out = [tex.remark(f"{c.table.table.title}: methods compared; needs booktabs")]
    for g in grids(c):
        lines = [" & ".join(map(tex.written, row)) + r" \\" for row in (g.header, *g.rows)]
        out += [
            tex.remark(g.title),
            f"\\begin{{tabular}}{{l{'r' * len(c.columns)}}}",
            "\\toprule",
            lines[0],
            "\\midrule",
        ]
        out += [*lines[1:], "\\bottomrule", "\\end{tabular}", "", *map(tex.remark, g.notes)]
    return "\n".join([*out, *map(tex.remark, (KEY, *c.notes))]) + "\n"
