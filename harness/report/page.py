"""report.html: one file that holds the whole report and asks nothing of the network.

Tables first, then what is behind them: curves, scores against each other, samples, cost, failures,
environment. Everything comes from a `Report`, that is from result.json files.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from harness.report import charts, comparison_page, tables
from harness.report.comparison import compare
from harness.report.grounds import Colours, colours, grounds
from harness.report.model import Cell, MetricTable, Report, TableReport
from harness.report.style import SCRIPT, STYLE


def html(report: Report) -> str:
    """The whole page. Works with no finished trial too."""
    inks = colours(report)
    parts = [_head(report), *(_table(t, inks) for t in report.tables)]
    parts += [*map(comparison_page.section, compare(report)), *grounds(report, inks)]
    parts += [_failures(report), _trials(report), _environment(report)]
    title = escape(report.experiment.name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>{''.join(parts)}</main><script>{SCRIPT}</script></body></html>\n"
    )


def _head(report: Report) -> str:
    name = escape(report.experiment.name)
    words = {word: n for word, n in report.verdicts.items() if n}
    order = ("replicated", "direction only", "contradicted", "inconclusive", "not run")
    chips = "".join(f"<li>{_chip(w)} <b>{words[w]}</b></li>" for w in order if w in words)
    beside = f'<ul class="verdicts" aria-label="Verdicts beside the paper">{chips}</ul>' if chips else ""
    return f'<header><h1>{name}</h1><p class="status">{escape(tables.status(report))}</p>{beside}</header>'


# ── tables ───────────────────────────────────────────────────────────────────


def _table(t: TableReport, inks: Colours) -> str:
    """A table's section: the headline metrics together, as the paper lays them out; every other on its own tab."""
    panels = [p for p in (t.headline, *((m,) for m in t.metrics if not m.headline)) if p]
    tabs = "".join(
        f'<button type="button" aria-pressed="{str(i == 0).lower()}" data-panel="{_id(t, p)}">'
        f"{escape(' and '.join(m.label for m in p))}</button>"
        for i, p in enumerate(panels)
    )
    chosen = f'<div class="tabs" role="group" aria-label="Metric">{tabs}</div>' if len(panels) > 1 else ""
    body = "".join(_panel(t, p, inks, hidden=i > 0) for i, p in enumerate(panels)) or _states(t)
    notes = "".join(f"<li>{escape(n)}</li>" for n in t.notes)
    return (
        f'<section class="table" id="{escape(t.table.name)}"><h2>{escape(t.table.title)}</h2>{chosen}{body}'
        f"{f'<ul class=notes>{notes}</ul>' if notes else ''}{_statistics(t)}</section>"
    )


def _id(t: TableReport, metrics: Sequence[MetricTable]) -> str:
    return escape(f"{t.table.name}-{metrics[0].name}")


def _panel(t: TableReport, metrics: Sequence[MetricTable], inks: Colours, *, hidden: bool) -> str:
    """The matrix of cells, and the differences to the baseline drawn, one scale a metric and setting."""
    settings, count = t.table.settings, len(metrics)
    heads = "".join(f"<th scope=colgroup colspan={count}>{escape(t.label(s))}</th>" for s in settings)
    names = "".join(f"<th scope=col>{_name(m)}</th>" for _ in settings for m in metrics)
    rows = "".join(
        f"<tr><th scope=row>{escape(t.label(arm))}</th>"
        + "".join(_cell(m.cells[s, arm], best=_best(t, m, s) == arm) for s in settings for m in metrics)
        + "</tr>"
        for arm in t.table.arms
    )
    forests = [
        f"<figure><figcaption>{escape(m.label)}, {escape(t.label(s))}</figcaption>{forest}</figure>"
        for m in metrics
        for s in settings
        if (forest := _forest(t, m, s, inks))
    ]
    beside = any(tables.beside_paper(m) for m in metrics)
    whom = "the baseline" if t.baseline == "baseline" else t.label(t.baseline)
    key = f"Mean over seeds ± half of its 95 % t-interval. Δ: difference to {escape(whom)}, paired by seed."
    key += " Paper: its figure, and its difference to its own baseline." if beside else ""
    if any(c.trailing for m in metrics for c in m.cells.values()):
        key += " Last k: mean over a run's last k snapshots and the sd within it."
    if any(tables.has_best(m) for m in metrics):
        key += f" {tables.BEST[0].upper()}{tables.BEST[1:]}."
    key += " Bold: the best mean of a column, which is no test; never one of survivors, or a biased one (‡)."
    legend = "line: 95 % interval · dots: seeds" + (" · diamond: paper" if beside else "")
    drawn = f"<h3>Difference to {escape(whom)} <small>{legend}</small></h3><div class=forests>{''.join(forests)}</div>"
    return (
        f'<div class="panel" id="{_id(t, metrics)}"{" hidden" * hidden}><div class="scroll"><table class="cells">'
        f"<thead><tr><td></td>{heads}</tr><tr><td></td>{names}</tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="key">{key}</p>{drawn if forests else ""}</div>'
    )


def _name(m: MetricTable) -> str:
    aim = {"lower": "lower is better", "higher": "higher is better", "zero": "0 is best"}[m.better]
    return f'<abbr title="{escape(m.name)}: {aim}">{escape(m.label)} {tables.ARROW[m.better]}</abbr>'


def _best(t: TableReport, m: MetricTable, setting: str) -> str | None:
    """The arm with the best mean of a column that has several; a mark for the eye, not a test. Nobody where that is a
    mean of those that a divergence or failure left over, or is biased: it is not known to be the best."""
    means = {a: c.summary.mean for a in t.table.arms if (c := m.cells[setting, a]).summary}
    rank = {"lower": lambda v: v, "higher": lambda v: -v, "zero": abs}[m.better]
    first = min(means, key=lambda a: rank(means[a])) if len(means) > 1 else None
    return None if first is None or (c := m.cells[setting, first]).counts.lost or c.biased else first


def _cell(c: Cell, *, best: bool) -> str:
    if c.summary is None:
        look = "waiting never" if c.not_possible is not None else "waiting"
        body = f'<span class="{look}">{escape(tables.seeds_of(c))}</span>'
        return f"<td>{body}{_paper(c)}</td>"
    s = c.summary
    half = f' <span class="pm">± {s.half:.{tables.decimals(s.mean, s.half)}f}</span>' if s.half is not None else ""
    seeds = ", ".join(f"s{k} {tables.number(v)}" for k, v in sorted(c.values.items()))
    of = f'<div class="{"few" if c.waiting else "tail"}">seeds: {escape(tables.seeds_of(c))}</div>'
    mean = f"{tables.number(s.mean, s.half)}{half}{tables.marks(c)}"
    lines = [
        f'<div class="est{" best" * best}" title="{escape(seeds)}">{mean}</div>',
        of,
        f'<div class="diff">{escape(tables.difference(c))}</div>' if c.pairs and (c.paired or c.pairs.lost) else "",
    ]
    if c.trailing:
        about = "mean and sd within a run over its last snapshots"
        last = f"last {c.trailing.snapshots}: {tables.trailing(c.trailing)}"
        lines.append(f'<div class="tail" title="{about}">{last}</div>')
    if c.best:
        lines.append(f'<div class="tail" title="{escape(tables.BEST)}">best {tables.best(c)} kimg</div>')
    lines.append(_paper(c))
    return f"<td>{''.join(lines)}</td>"


def _paper(c: Cell) -> str:
    if c.paper is None:
        return ""
    judged = f"<div>{_chip(c.verdict.word, tables.verdict(c))}</div>" if c.verdict else ""
    return f'<div class="paper">paper {tables.paper(c)}</div>{judged}'


def _chip(word: str, text: str | None = None) -> str:
    return f'<span class="chip {word.replace(" ", "-")}">{escape(text or word)}</span>'


def _forest(t: TableReport, m: MetricTable, setting: str, inks: Colours) -> str:
    rows = []
    for arm in t.table.arms:
        c = m.cells[setting, arm]
        if c.paired:
            s = c.paired.summary
            ink = inks.of(t.table.cells[setting, arm][0])
            values = c.paired.differences
            rows.append(charts.Row(t.label(arm), ink, s.mean, s.low, s.high, values, c.paper_difference))
    title = f"{m.label}: difference to {t.label(t.baseline)}, {t.label(setting)}"
    return charts.intervals(rows, title, f"Δ {m.label}") if rows else ""


def _states(t: TableReport) -> str:
    """The table while no trial has finished: only states."""
    rows = [[t.label(arm), *(tables.states(t, s, arm) for s in t.table.settings)] for arm in t.table.arms]
    return _plain(["", *(t.label(s) for s in t.table.settings)], rows)


def _statistics(t: TableReport) -> str:
    """Every paired comparison with its tests."""
    rows = []
    for m in t.metrics:
        for (setting, arm), c in m.cells.items():
            if c.paired is None and c.pairs and c.pairs.lost:
                rows.append([m.label, t.label(setting), t.label(arm), str(c.pairs), tables.NOTHING, *[""] * 7,
                             tables.verdict(c)])  # fmt: skip
            if c.paired is None or c.pairs is None:
                continue
            s, v = c.paired.summary, c.verdict
            low, high = (tables.number(x, s.half, signed=True) if x is not None else "" for x in (s.low, s.high))
            rows.append(
                [
                    m.label, t.label(setting), t.label(arm), str(c.pairs), tables.difference(c),
                    f"[{low}, {high}]" if low else "", _p(c.paired.p_t), _p(c.p_holm), _p(c.paired.p_flip),
                    f"{c.paired.effect:+.2f}".replace("-", "−") if c.paired.effect is not None else "",
                    f"{v.share[0]:.2f} … {v.share[1]:.2f}".replace("-", "−") if v and v.share else "",
                    str(c.precise_seeds or ""), tables.verdict(c),
                ]
            )  # fmt: skip
    if not rows:
        return ""
    head = ["Metric", "Setting", "Arm", "Pairs", "Difference", "95 % interval", "p (t)", "p (Holm)", "p (sign flip)",
            "d_z", "In units of the paper's", "Seeds for ± half", "Verdict"]  # fmt: skip
    about = (
        "Holm: over this table's headline comparisons, and over all others. d_z: effect size with small-sample "
        "correction. Seeds for ± half: until the interval is half the paper's difference (else half of ours) wide "
        "to either side. The rules of the verdicts are in docs/verdicts.md."
    )
    return f"<details><summary>Every comparison, with its tests</summary><p>{about}</p>{_plain(head, rows)}</details>"


def _p(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _plain(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = "".join(line(r, "td") for r in rows)
    return (
        f'<div class="scroll"><table class="plain"><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table></div>'
    )


# ── the fine print ───────────────────────────────────────────────────────────


def _failures(report: Report) -> str:
    """Trials that ended without a number, and why."""
    rows = [
        [o.serves[0].setting, o.serves[0].arm, str(o.trial.seed), o.word, o.reason, o.trial.id]
        for o in report.outcomes
        if o.state not in ("done", "missing", "running", "scoring")
    ]
    if not rows:
        return ""
    head = ["Setting", "Arm", "Seed", "State", "Reason", "Trial"]
    return f'<section id="failures"><h2>Trials without a number</h2>{_plain(head, rows)}</section>'


def _trials(report: Report) -> str:
    """One line a trial; results.csv holds the rest."""
    metrics = {m.name: m.label for t in report.tables for m in t.headline}
    rows = []
    for o in report.outcomes:
        values = [tables.number(o.scores[m].value, o.scores[m].se) if m in o.scores else "" for m in metrics]
        serves = ", ".join(f"{p.table}/{p.setting}/{p.arm}" for p in o.serves)
        rows.append([o.trial.id, serves, str(o.trial.seed), o.word, *values])
    shared = sum(len(o.serves) for o in report.outcomes)
    head = ["Trial", "Serves", "Seed", "State", *metrics.values()]
    return (
        f'<section id="trials"><h2>Trials</h2><details><summary>{len(rows)} trials serve {shared} places in '
        f"{len(report.tables)} table{'s' * (len(report.tables) > 1)}</summary>{_plain(head, rows)}</details></section>"
    )


def _environment(report: Report) -> str:
    """What the figures were made with, and the protocol of every metric."""
    facts: dict[str, Counter[str]] = {}
    for o in report.outcomes:
        versions = o.result.get("env", {}).get("versions", {})
        for key, value in {**o.facts(), "python": o.result.get("env", {}).get("python"), **versions}.items():
            if value is not None and key != "data":
                facts.setdefault(key, Counter())[str(value)] += 1
    if not facts:
        return ""
    rows = [[k, ", ".join(f"{v} ({n} trials)" if len(c) > 1 else v for v, n in c.items())] for k, c in facts.items()]
    protocols = {(m.name, tables.fingerprint(p)): p for t in report.tables for m in t.metrics for p in m.protocols}
    lines = [
        [name, code, ", ".join(f"{k} {json.dumps(v) if isinstance(v, dict | list) else v}" for k, v in p.items())]
        for (name, code), p in sorted(protocols.items())
    ]
    return (
        f'<section id="environment"><h2>Environment and protocols</h2>{_plain(["Fact", "Value"], rows)}'
        f"<details><summary>How every metric was measured</summary>{_plain(['Metric', 'Id', 'Protocol'], lines)}"
        "</details></section>"
    )
