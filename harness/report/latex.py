"""A table of a report in LaTeX, in the paper's own layout."""

import re

from harness.report import tables
from harness.report.model import Cell, TableReport

SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: "\\" + sign for sign in "&%#_$"}, "<": "$<$", ">": "$>$", "|": "$|$", '"': "''", "`": r"\textasciigrave{}",
    "↓": r"$\downarrow$", "↑": r"$\uparrow$", "→": r"$\to$", "−": "$-$", "–": "--", "±": r"$\pm$", "×": r"$\times$",
    "[": "{[}", "*": "{*}",  # else an option of the end of the row above
    "≤": r"$\leq$", "≥": r"$\geq$", "†": r"\dag{}", "‡": r"\ddag{}", "…": r"\dots{}",
    "●": r"$\bullet$", "○": r"$\circ$",
}  # fmt: skip
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi - pi rho - sigma tau upsilon phi chi psi"
)
SIGNS |= {chr(ord("α") + i): f"$\\{name}$" for i, name in enumerate(_GREEK.split()) if name != "-"}
"""What means something in a text of LaTeX, or is not in every font, as what prints it."""


def latex(t: TableReport) -> str:
    """A booktabs table: arms as rows; per setting the headline metrics; our mean with the number of seeds above and
    half its interval below, beside it what became of the other seeds, the paper's figure in parentheses beneath."""
    count = len(t.headline)
    spans = [f"\\multicolumn{{{count}}}{{c}}{{{written(t.label(s))}}}" for s in t.table.settings]
    rules = [f"\\cmidrule(lr){{{2 + i * count}-{1 + (i + 1) * count}}}" for i in range(len(spans))]
    heads = [f"{written(m.label)} {written(tables.ARROW[m.better])}" for _ in spans for m in t.headline]
    lines = [
        remark(f"{t.table.title}; needs booktabs"), f"\\begin{{tabular}}{{l{'c' * len(spans) * count}}}", "\\toprule"
    ]  # fmt: skip
    if count:
        lines += [" & ".join(["", *spans]) + r" \\", "".join(rules)]
    lines += [" & ".join(["Method", *heads]) + r" \\", "\\midrule"]
    for arm in t.table.arms:
        cells = [m.cells[s, arm] for s in t.table.settings for m in t.headline]
        lines.append(" & ".join([written(t.label(arm)), *map(_cell, cells)]) + r" \\")
        if any(c.paper is not None for c in cells):
            theirs = [f"({c.paper:.2f})" if c.paper is not None else "" for c in cells]
            lines.append(" & ".join(["\\quad\\small paper", *(f"\\small {x}" for x in theirs)]) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *map(remark, t.notes)]) + "\n"


def written(text: str) -> str:
    """A text of the user so that LaTeX prints it, on one line: no sign of it is taken for a command."""
    text = _one_line(text)
    # Hyphens in a row would be a dash.
    return "".join("-{}" if text[i : i + 2] == "--" else SIGNS.get(c, c) for i, c in enumerate(text))


def remark(text: str) -> str:
    """A comment, which ends where its line does."""
    return f"% {_one_line(text)}"


def _one_line(text: str) -> str:
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())


def _cell(cell: Cell) -> str:
    rest = f" {{\\scriptsize {written(tables.waiting(cell.waiting))}}}" if cell.waiting else ""
    if cell.not_possible is not None:
        return f"{{\\scriptsize {tables.IMPOSSIBLE}}}"  # why stands among the remarks
    if cell.summary is None:
        return f"--$^{{n=0/{cell.planned}}}$" + rest
    half = cell.summary.half
    text = tables.number(cell.summary.mean, half).replace("−", "-")
    few = f"/{cell.planned}" if cell.waiting else ""
    spread = f"_{{\\pm {half:.{tables.decimals(cell.summary.mean, half)}f}}}" if half is not None else ""
    return f"${text}^{{n={cell.summary.n}{few}}}{spread}${written(tables.marks(cell))}{rest}"
