"""The comparison of methods as a section of report.html."""

from html import escape

from harness.report import comparison_text as text
from harness.report.comparison import Comparison, Entry
from harness.report.comparison_text import Part
from harness.report.effects import PLAIN


def section(c: Comparison) -> str:
    """Rows are methods, columns backbone x data; a table for each metric, then the one at equal seconds."""
    name = escape(c.table.table.name)
    blocks = "".join(f"<h3>{escape(p.title)}</h3>{_table(c, p)}" for p in text.parts(c))
    notes = "".join(f"<li>{escape(n)}</li>" for n in c.notes)
    key = (
        '<p class="key"><span class="eff filled better">better</span> &nbsp;<span class="eff filled">worse</span> '
        '&nbsp;certain within this page (Holm over all its cells); &nbsp;<span class="eff hollow">hollow</span> '
        "only by itself, or before all its pairs are there.</p>"
    )
    return (
        f'<section class="methods" id="{name}-methods"><h2>{escape(c.table.table.title)}: methods compared</h2>'
        f"{key}<ul class=notes>{notes}</ul>{blocks}</section>"
    )


def _table(c: Comparison, part: Part) -> str:
    heads = "".join(
        f"<th scope=col>{escape(column.label)}<br><small>{escape(column.what)}</small></th>" for column in c.columns
    )
    rows = "".join(
        f"<tr><th scope=row>{escape(c.table.label(arm))}</th>"
        + "".join(_cell(c, part, column.setting, arm) for column in c.columns)
        + "</tr>"
        for arm in c.arms
    )
    about = [part.about, *([text.OVER] if part.cost else [])]
    key = escape(". ".join(f"{a[0].upper()}{a[1:]}" for a in about))
    return (
        f'<div class="scroll"><table class="cells"><thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody>'
        f'</table></div><p class="key">{key}.</p>'
    )


def _cell(c: Comparison, part: Part, setting: str, arm: str) -> str:
    e = part.cell(setting, arm)
    cost = text.cost(c.cost[setting, arm]) if part.cost else ""
    lines = [_figure(e, part.percent), text.about(e, part.percent), cost]
    return f"<td>{lines[0]}{''.join(f'<div class=tail>{escape(x)}</div>' for x in lines[1:] if x)}</td>"


def _figure(e: Entry, percent: bool) -> str:
    if e.effect is None:
        return f'<span class="waiting">{escape(e.why)}</span>'
    look = "eff" + (f" {e.look}" if e.look != PLAIN else "") + " better" * e.better
    return f'<span class="{look}">{escape(text.figure(e, percent))}</span>'
