"""Effects in units that backbones and data share, and which of many cells may be believed. Pure functions over floats.

A distance is compared by its ratio, one pair a seed: exp(mean of log(arm / baseline)) - 1. What may lie near 0, as DI
does, has no meaningful ratio: its difference is in units of the baseline's sd over seeds.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from scipy.special import stdtrit

from harness.report import statistics
from harness.report.statistics import MOST_SEEDS, Summary

ALPHA = 0.05
FILLED, HOLLOW, PLAIN = "filled", "hollow", "plain"  # certain within the page, only by itself, or neither


class Effect(NamedTuple):
    """Of n pairs: its mean and t-interval (None below two pairs), in % or sds, and the two-sided p of no effect."""

    mean: float
    low: float | None
    high: float | None
    n: int
    p: float | None


def ratio(arm: Sequence[float], baseline: Sequence[float]) -> Effect | None:
    """Pairs of distances, in %: 0 is no effect, -50 is half of the baseline's. None where one is not above 0."""
    if not arm or min(*arm, *baseline) <= 0:
        return None
    logs = statistics.summary([math.log(a / b) for a, b in zip(arm, baseline, strict=True)])
    mean, low, high = (None if x is None else 100 * _expm1(x) for x in (logs.mean, logs.low, logs.high))
    assert mean is not None
    return Effect(mean, low, high, logs.n, statistics.t_test_p(logs))


def in_sds(arm: Sequence[float], baseline: Sequence[float], every: Sequence[float]) -> Effect | None:
    """Differences of pairs over the sd (n - 1) of `every` value of the baseline; None where that has none, or 0. The
    interval is that of the differences: the sd is taken as known, which scales it and moves no p."""
    unit = statistics.summary(every).sd if len(every) > 1 else None
    if not arm or not unit:
        return None
    s: Summary = statistics.summary([a - b for a, b in zip(arm, baseline, strict=True)])
    low, high = (None if x is None else x / unit for x in (s.low, s.high))
    return Effect(s.mean / unit, low, high, s.n, statistics.t_test_p(s))


def looks(p_values: Sequence[float | None], whole: Sequence[bool]) -> list[str]:
    """How the cells of a page are drawn. Filled: Holm's p over all of them is at most ALPHA, so that of pages without
    any effect at most one in 20 has a filled cell. A cell without a p counts among them, as one of 1. Hollow: p alone
    is at most ALPHA. One that is not `whole`, a look before all its pairs are there, is hollow at best."""
    adjusted = statistics.holm([1.0 if p is None else p for p in p_values])
    return [
        FILLED if full and a <= ALPHA else HOLLOW if p is not None and p <= ALPHA else PLAIN
        for p, a, full in zip(p_values, adjusted, whole, strict=True)
    ]


def needed_t(pairs: int, cells: int) -> float:
    """|t| from which on the most certain of `cells` is filled at that many pairs: 17.8 at 3 pairs and 16 cells."""
    return float(stdtrit(pairs - 1, 1 - ALPHA / (2 * cells)))


def pairs_for(effect: float, cells: int) -> int | None:
    """The least pairs at which a mean of `effect` sds of its own differences is filled; None above MOST_SEEDS."""
    span = range(2, MOST_SEEDS + 1)
    n = 2 + bisect_left(span, True, key=lambda n: needed_t(n, cells) <= effect * math.sqrt(n))
    return n if n <= MOST_SEEDS else None


def at(curve: Sequence[tuple[float, float]], nimg: float) -> float | None:
    """The value of a curve of positive values after so many images, geometric between its points, which ascend; None
    outside of them."""
    for n, value in curve:
        if math.isclose(n, nimg):  # an end may be missed by a rounding
            return value
    for (n0, v0), (n1, v1) in zip(curve, curve[1:], strict=False):
        if n0 < nimg < n1:
            share = (nimg - n0) / (n1 - n0)
            return math.exp((1 - share) * math.log(v0) + share * math.log(v1))
    return None


def _expm1(x: float) -> float:
    """exp(x) - 1, infinite where it has no float: an interval of two pairs may reach anywhere."""
    try:
        return math.expm1(x)
    except OverflowError:
        return math.inf
