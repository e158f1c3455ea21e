"""What a person sees in the terminal: live progress, tables, one-line errors. The only rich import."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.streams import fitting, safe

STYLES = {
    "done": "green", "running": "cyan", "scoring": "cyan", "waiting": "dim", "diverged": "magenta",
    "interrupted": "yellow",
}  # fmt: skip
ENDS = ("done", "diverged", "failed", "timeout", "hung", "oom", "interrupted")
PLAIN_EVERY_S = 15.0


class Progress:
    """Progress of many trials: one live display, or a line now and then where there is no terminal.

    Binds its stream when made, so that later redirections of sys.stdout don't reach it.
    """

    def __init__(self, names: Mapping[str, str], stream: TextIO | None = None) -> None:
        """`names`: {trial id: what to call it}, in launch order."""
        self._console = _console(stream)
        self._names = dict(names)
        self._now: dict[str, dict[str, Any]] = {id: {"word": "waiting"} for id in names}
        self._said: dict[str, float] = {}
        self._began = time.monotonic()
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, refresh_per_second=2, get_renderable=self._draw, redirect_stdout=False,
                redirect_stderr=False, transient=True,
            )  # fmt: skip

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
            for id, now in self._now.items():
                if now["word"] in ENDS:
                    self._say(id)

    def __call__(self, id: str, word: str, report: Mapping[str, Any]) -> None:
        """The `on_progress` of a launch."""
        before = self._now[id]
        if word == "running" and report.get("state") == "scoring":
            word = "scoring"
        # What was said of what went on before is true no more, least of all at an end.
        self._now[id] = {**before, "message": None, **{k: v for k, v in report.items() if v is not None}, "word": word}
        warning = report.get("warning")
        if warning and warning != before.get("warning"):
            line = f"{'warning':<11}  {self._names[id]}  {warning}"
            self._console.print(Text(line, style="yellow"), soft_wrap=True)
        if self._live:
            return
        changed = word != before["word"]
        if changed or time.monotonic() - self._said.get(id, -1e9) > PLAIN_EVERY_S:
            self._said[id] = time.monotonic()
            self._say(id)

    def _say(self, id: str) -> None:
        now = self._now[id]
        cells = [f"{now['word']:<11}", self._names[id], *(c for c in _cells(now) if c)]
        if now.get("message"):
            cells.append(str(now["message"]))
        self._console.print(Text("  ".join(cells), style=_style(now["word"])), soft_wrap=True)

    def _draw(self) -> Group:
        """The display: a line a trial that is under way, as many as fit, and the counts below."""
        table = Table(box=None, padding=(0, 1), show_edge=False)
        for column in ("trial", "", "kimg", "img/s", "left", "latest"):
            table.add_column(column, no_wrap=True, justify="left" if column in ("trial", "", "latest") else "right")
        active = [id for id, now in self._now.items() if now["word"] in ("running", "scoring")]
        retrying = [id for id, now in self._now.items() if now["word"] == "waiting" and now.get("message")]
        rows = max(3, self._console.height - 5)
        for id in (active + retrying)[:rows]:
            now = self._now[id]
            kimg, rate, left, latest = _cells(now)
            share = now.get("nimg", 0) / max(1, now.get("total_nimg", 1))
            bar = ProgressBar(total=1.0, completed=share, width=18)
            note = Text(str(now.get("message") or latest), style=_style(now["word"]))
            table.add_row(self._names[id], bar, kimg, rate, left, note)
        counts = Counter(now["word"] for now in self._now.values())
        words = "  ".join(f"[{_style(w)}]{n} {w}[/]" for w, n in counts.items())
        line = f"{words}  of {len(self._now)} trials  {duration(time.monotonic() - self._began)}"
        return Group(table, Text.from_markup(line))


def _style(word: str) -> str:
    return STYLES.get(word, "red")


def _cells(now: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """kimg / total, images per second, time left, the latest scores that it reports: texts, empty where unknown."""
    nimg, total, rate = now.get("nimg"), now.get("total_nimg"), now.get("images_per_s")
    kimg = f"{nimg / 1000:.4g}/{total / 1000:.4g} kimg" if nimg is not None and total else ""
    running = now["word"] == "running" and nimg is not None and total
    speed = f"{rate:.3g} img/s" if rate and running else ""
    left = f"{duration((total - nimg) / rate)} left" if rate and running and total and nimg is not None else ""
    latest = {k.split("/")[-1]: v for k, v in (now.get("latest") or {}).items()}
    return kimg, speed, left, "  ".join(f"{k} {v:.4g}" for k, v in latest.items() if isinstance(v, int | float))


def duration(seconds: float) -> str:
    """42 s, 3 min 05 s, 2 h 07 min, 3 d 4 h."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    if s < 86400:
        return f"{s // 3600} h {s % 3600 // 60:02d} min"
    return f"{s // 86400} d {s % 86400 // 3600} h"


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    notes: Sequence[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Print a table: text columns first-left, others right; `notes` below. No cell is ever cut off."""
    console = _console(stream)
    title, columns, rows = _fitting((title, columns, rows), console.encoding)
    table = Table(title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1))
    for i, column in enumerate(columns):
        numeric = all(_is_number(row[i]) for row in rows) and bool(rows)
        table.add_column(Text(column), justify="right" if i and numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if not console.is_terminal:
        width, console.width = console.width, 10_000
        console.width = max(width, console.measure(table).maximum)
    console.print(table)
    for note in notes:
        console.print(Text(note, style="dim"), soft_wrap=True)


def _fitting(cells: Any, encoding: str) -> Any:
    """A text, or whatever holds texts, in characters that can be shown: before their widths are measured."""
    return fitting(cells, encoding) if isinstance(cells, str) else [_fitting(c, encoding) for c in cells]


def _console(stream: TextIO | None = None) -> Console:
    return Console(file=safe(stream or sys.stdout), highlight=False)


def _is_number(cell: str) -> bool:
    return not cell or cell[0] in "+-−0123456789" or cell in ("–", "n/a")


def estimate(mean: float, half: float | None, n: int) -> str:
    """A cell of a result table: mean ± half its interval, number of seeds: `12.31 ± 0.42 (3)`."""
    digits = 2 if abs(mean) >= 0.1 else 4
    width = "" if half is None else f" ± {half:.{digits}f}"
    return f"{mean:.{digits}f}{width} ({n})"


def say(text: str) -> None:
    """A line on standard output, as it is."""
    _console().print(Text(text), soft_wrap=True)


def error(text: str) -> None:
    """A complaint: one line on standard error."""
    _console(sys.stderr).print(Text.assemble(("error: ", "bold red"), " ".join(text.split())), soft_wrap=True)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for one long count: call the yielded function with (done, total)."""
    with Bar(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=_console(), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
