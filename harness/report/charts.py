"""Line, interval and point charts as inline SVG.

A chart takes numbers and CSS colours and only draws. Text and axes take `currentColor`, so a page
styles them; no chart needs a script, a font file or a raster.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 26
MOST_POINTS = 120

Points = Sequence[Sequence[float | str]]
"""[[x, y], ...] with x rising; a journal keeps a y that is no number as its name, "nan"."""


@dataclass(frozen=True)
class Band:
    """One curve: mean over runs with the range between them. `low` and `high` equal `mean` for one run."""

    label: str
    colour: str
    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    dashed: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Row:
    """One line of an interval plot: an estimate with its interval, the values behind it, a reference mark."""

    label: str
    colour: str
    mean: float
    low: float | None
    high: float | None
    values: Sequence[float] = field(default_factory=tuple)
    mark: float | None = None


@dataclass(frozen=True)
class Dot:
    """One point of a scatter plot; a `strong` one is larger."""

    label: str
    colour: str
    x: float
    y: float
    strong: bool = False


def band(label: str, colour: str, runs: Sequence[Points], *, dashed: bool = False, faint: bool = False) -> Band | None:
    """Curves of several runs as one band: averaged in at most MOST_POINTS bins of x, then mean and range
    over the runs that reached the bin. Values that are no number are left as gaps. None without any value."""
    curves = [np.asarray([(float(x), float(y)) for x, y in run], np.float64) for run in runs if len(run)]
    if not curves:
        return None
    xs = np.unique(np.concatenate([c[:, 0] for c in curves]))
    edges = xs if len(xs) <= MOST_POINTS else np.linspace(xs[0], xs[-1], MOST_POINTS)
    table = np.full((len(curves), len(edges)), np.nan)
    for row, curve in zip(table, curves, strict=True):
        curve = curve[np.isfinite(curve[:, 1])]
        bins = np.searchsorted(edges, curve[:, 0])
        sums = np.bincount(bins, curve[:, 1], len(edges))
        counts = np.bincount(bins, minlength=len(edges))
        row[counts > 0] = sums[counts > 0] / counts[counts > 0]
    seen = np.isfinite(table).any(axis=0)
    if not seen.any():
        return None
    table = table[:, seen]
    return Band(
        label, colour, edges[seen], np.nanmean(table, 0), np.nanmin(table, 0), np.nanmax(table, 0), dashed, faint
    )  # fmt: skip


def curves(bands: Sequence[Band], title: str, *, limits: tuple[float, float] | None = None) -> str:
    """Bands over images seen. `limits`: the y range, so that several charts can share it."""
    low, high = limits or extent(bands)
    frame = _Frame((0, max(float(b.x[-1]) for b in bands) or 1.0), (low, high), title)  # all may have ended at 0
    parts = [frame.axes(x_text=images)]
    for b in sorted(bands, key=lambda b: not b.faint):
        xs = [frame.x(v) for v in b.x]
        edge = [f"{x:.1f},{frame.y(v):.1f}" for x, v in zip(xs, b.high, strict=True)]
        edge += [f"{x:.1f},{frame.y(v):.1f}" for x, v in zip(xs[::-1], b.low[::-1], strict=True)]
        if not b.faint and (b.high > b.low).any():
            parts.append(f'<polygon points="{" ".join(edge)}" fill="{b.colour}" opacity=".16"/>')
        line = " ".join(f"{x:.1f},{frame.y(v):.1f}" for x, v in zip(xs, b.mean, strict=True))
        dash = ' stroke-dasharray="4 3"' if b.dashed else ""
        look = 'stroke-width="1" opacity=".55"' if b.faint else 'stroke-width="1.6"'
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{b.colour}" {look}{dash} stroke-linejoin="round">'
            f"<title>{escape(b.label)}</title></polyline>"
        )
    return frame.svg(parts)


def extent(bands: Sequence[Band]) -> tuple[float, float]:
    """The y range that holds all bands: 1st to 99th percentile of their edges, so one spike hides nothing else."""
    values = np.concatenate([v for b in bands for v in (b.low, b.high)])
    low, high = np.percentile(values, [1, 99])
    pad = (high - low or abs(high) or 1) * 0.06
    return float(low - pad), float(high + pad)


def scatter(dots: Sequence[Dot], title: str, x_label: str, y_label: str) -> str:
    """Two metrics against each other."""
    xs, ys = [d.x for d in dots], [d.y for d in dots]
    frame = _Frame(_padded(xs), _padded(ys), title, bottom=BOTTOM + 14)
    parts = [frame.axes(x_label=x_label, y_label=y_label)]
    for d in sorted(dots, key=lambda d: d.strong):
        look = 'r="5.5" stroke="var(--paper)" stroke-width="1.5"' if d.strong else 'r="3" opacity=".55"'
        parts.append(
            f'<circle cx="{frame.x(d.x):.1f}" cy="{frame.y(d.y):.1f}" {look} fill="{d.colour}">'
            f"<title>{escape(d.label)}: {d.x:.4g}, {d.y:.4g}</title></circle>"
        )
    return frame.svg(parts)


def intervals(rows: Sequence[Row], title: str, x_label: str) -> str:
    """A forest plot around 0: a line per row with its interval, a dot per seed, a diamond for the reference."""
    step, left, foot = 22, 118, 34
    height = TOP + step * len(rows) + foot
    points = [0.0] + [v for r in rows for v in (r.mean, r.low, r.high, r.mark, *r.values) if v is not None]
    frame = _Frame(_padded(points), (0, 1), title, height=height, left=left, width=460, bottom=foot)
    parts = [frame.x_axis(x_label)]
    zero = frame.x(0)
    parts.append(f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="{TOP}" y2="{height - foot}" class="zero"/>')
    for i, r in enumerate(rows):
        y = TOP + step * (i + 0.5)
        parts.append(f'<text x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(r.label)}</text>')
        if r.low is not None and r.high is not None:
            parts.append(
                f'<line x1="{frame.x(r.low):.1f}" x2="{frame.x(r.high):.1f}" y1="{y}" y2="{y}" '
                f'stroke="{r.colour}" stroke-width="2.5" stroke-linecap="round" opacity=".45"/>'
            )
        for v in r.values:
            parts.append(f'<circle cx="{frame.x(v):.1f}" cy="{y}" r="2.2" fill="{r.colour}" opacity=".7"/>')
        parts.append(
            f'<line x1="{frame.x(r.mean):.1f}" x2="{frame.x(r.mean):.1f}" y1="{y - 6}" y2="{y + 6}" '
            f'stroke="{r.colour}" stroke-width="2.5"><title>{escape(r.label)}: {r.mean:+.4g}</title></line>'
        )
        if r.mark is not None:
            x = frame.x(r.mark)
            parts.append(
                f'<path d="M{x:.1f} {y - 5}l4.5 5l-4.5 5l-4.5 -5z" class="mark">'
                f"<title>paper: {r.mark:+.2f}</title></path>"
            )
    return frame.svg(parts)


def images(n: float) -> str:
    """A count of images, short: 400k, 25M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(n) >= size:
            return f"{n / size:g}{unit}"
    return f"{n:g}"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values within [low, high]: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low or abs(high) or 1.0) * 0.08
    return low - pad, high + pad


@dataclass(frozen=True)
class _Frame:
    """Data coordinates to SVG's, and the axes."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    title: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    bottom: int = BOTTOM

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low or 1) * (self.width - self.left - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        span = self.height - TOP - self.bottom
        return float(min(max(TOP + (high - value) / (high - low or 1) * span, TOP - 6), TOP + span + 6))

    def axes(self, *, x_text: object = None, x_label: str = "", y_label: str = "") -> str:
        bottom = self.height - self.bottom
        parts = []
        for value in ticks(*self.y_range):
            y = self.y(value)
            parts.append(f'<line x1="{self.left}" x2="{self.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="rule"/>')
            parts.append(f'<text x="{self.left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_short(value)}</text>')
        show = images if x_text is images else _short
        for value in ticks(*self.x_range, count=5):
            parts.append(f'<text x="{self.x(value):.1f}" y="{bottom + 16}" text-anchor="middle">{show(value)}</text>')
        if x_label:
            parts.append(
                f'<text x="{self.width - RIGHT}" y="{self.height - 4}" text-anchor="end">{escape(x_label)}</text>'
            )
        if y_label:
            parts.append(f'<text x="2" y="{TOP - 2}">{escape(y_label)}</text>')
        return "".join(parts)

    def x_axis(self, label: str) -> str:
        bottom = self.height - self.bottom
        parts = []
        for value in ticks(*self.x_range, count=5):
            x = self.x(value)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" class="rule"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{_short(value)}</text>')
        middle = (self.left + self.width - RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{bottom + 29}" text-anchor="middle">{escape(label)}</text>')
        return "".join(parts)

    def svg(self, parts: Sequence[str]) -> str:
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(self.title)}">'
            f"{''.join(parts)}</svg>"
        )


def _short(value: float) -> str:
    return f"{0.0 if abs(value) < 1e-12 else value:.4g}".replace("-", "−")
