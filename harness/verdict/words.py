"""From pairs of seeds and a plan to a word.

A pair is its *gain*, a float oriented so that more is better for the arm: log(baseline / arm) of a distance, the plain
difference of another metric, or the difference in units of the paper's. `inf`, `-inf`, `nan`: the baseline's side, the
arm's, both are lost (diverged, or ended for good without a figure). None: it has not ended.

At a look the repeated interval of the mean gain lies below, around or above a point; the first word that holds:

    a question of one's own                              beside a figure of the paper (unit: its difference)
    worse                 below 0                        replicated      above 0 and around 1
    better, by less ...   above 0 and below the margin   direction only  above 0
    better                above 0                        contradicted    below 1/2
    no gain worth having  below the margin               inconclusive    all else
    open                  all else

As soon as a side is lost, the interval and the difference are gone: below, around and above are then what the
signed-rank test of gain - point says at that look's nominal p. The looks are read in order and the first word that
settles stands, with the interval and p of that look; a look is read when its first n pairs *in the plan's order* have
ended, and what ended beyond it is not seen. `no gain worth having` and `contradicted` are the futility boundary. It is
not binding: the boundary for a gain is the same whether or not an arm is given up there.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import stdtr

from harness.verdict.sequential import ALPHA, Boundaries, Shape, boundaries
from harness.verdict.signed_rank import best_p, signed_rank, speaks_from

BETWEEN: Literal["between looks"] = "between looks"
UNSETTLED = ("open", "inconclusive")


class Plan(NamedTuple):
    """Looks in pairs; one look is a fixed number of pairs. `alpha` is two-sided, over all looks."""

    looks: tuple[int, ...]
    shape: Shape = "obrien_fleming"
    alpha: float = ALPHA

    @property
    def boundaries(self) -> Boundaries:
        return boundaries(self.looks, self.shape, self.alpha)


class Question(NamedTuple):
    """`margin` > 0: the least gain worth having, in the gains' unit."""

    margin: float
    paper: bool = False


PAPER = Question(0.5, paper=True)


class Sides(NamedTuple):
    """Of the points 0, margin and 1 (the paper's): -1 if the mean gain is below, 1 if it is above, 0 if neither can be
    said. Numbers, or arrays of them."""

    zero: Any
    margin: Any
    paper: Any


Word = Literal[
    "worse", "better", "better, by less than the margin", "no gain worth having", "open",
    "replicated", "direction only", "contradicted", "inconclusive", "between looks",
]  # fmt: skip
Rule = tuple[Word, Callable[[Sides], Any]]
OWN_RULES: tuple[Rule, ...] = (
    ("worse", lambda s: s.zero < 0),
    ("better, by less than the margin", lambda s: (s.zero > 0) & (s.margin < 0)),
    ("better", lambda s: s.zero > 0),
    ("no gain worth having", lambda s: s.margin < 0),
    ("open", lambda s: s.zero == 0),
)
PAPER_RULES: tuple[Rule, ...] = (
    ("replicated", lambda s: (s.zero > 0) & (s.paper == 0)),
    ("direction only", lambda s: s.zero > 0),
    ("contradicted", lambda s: s.margin < 0),
    ("inconclusive", lambda s: s.zero <= 0),
)
POSITIVE = ("better", "better, by less than the margin", "replicated", "direction only")
FUTILE = ("no gain worth having", "contradicted")


class Reading(NamedTuple):
    """What a comparison says now. `pairs` is the last look taken (None: no look yet), at which everything else was
    computed; `next` the look that is waited for. `interval` (repeated) and `mean` are gains, None once a side is lost.
    `p`: adjusted, two-sided. `speaks_from`: lost sides left the test no way to see a gain at this look; from how many
    pairs on it has one, if all others are in favour."""

    word: Word
    pairs: int | None = None
    next: int | None = None
    test: Literal["t", "signed rank"] | None = None
    mean: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    speaks_from: int | None = None

    @property
    def settled(self) -> bool:
        """Whether no further pair can change it."""
        return self.pairs is not None and self.next is None


def read(gains: Sequence[float | None], plan: Plan, question: Question) -> Reading:
    """The word of a comparison whose pairs, in the plan's order, are `gains`; more than given have not ended."""
    if not question.margin > 0:
        raise ValueError(f"margin: {question.margin!r}: must be > 0")
    last = Reading(BETWEEN)
    for look, n in enumerate(plan.looks):
        seen = [g for g in gains[:n] if g is not None]
        if len(seen) < n:
            return last._replace(word=BETWEEN, next=n)
        last = _at(look, seen, plan.boundaries, question)
        if last.word not in UNSETTLED:
            break
    return last


def _at(look: int, gains: list[float], b: Boundaries, question: Question) -> Reading:
    points = (0.0, question.margin, 1.0)
    if all(math.isfinite(g) for g in gains):
        n, mean = len(gains), math.fsum(gains) / len(gains)
        sd = math.sqrt(math.fsum((g - mean) ** 2 for g in gains) / (n - 1))
        half = b.half_width(look, sd)
        low, high = mean - half, mean + half
        nominal = float(2 * stdtr(n - 1, -abs(mean) * math.sqrt(n) / sd)) if sd else float(mean == 0)
        word = first(Sides(*(side(low, high, m) for m in points)), question)
        return Reading(word, n, None, "t", mean, (low, high), b.adjusted_p(look, nominal))
    level = b.p[look] / 2
    tests = [signed_rank(gains, m) for m in points]
    word = first(Sides(*((t.above <= level) - (t.below <= level) for t in tests)), question)
    p = b.adjusted_p(look, tests[0].two_sided)
    return Reading(word, len(gains), None, "signed rank", None, None, p, _speaks_from(look, gains, b))


def side(low: float, high: float, point: float) -> int:
    """-1, 0 or 1: an interval lies below, around or above a point."""
    return (low > point) - (high < point)


def first(sides: Sides, question: Question) -> Word:
    """The first word that holds."""
    return next(word for word, holds in rules(question) if holds(sides))


def rules(question: Question) -> tuple[Rule, ...]:
    return PAPER_RULES if question.paper else OWN_RULES


def _speaks_from(look: int, gains: list[float], b: Boundaries) -> int | None:
    """None where the signed-rank test could see a gain at this look."""
    against, favour = gains.count(-math.inf), gains.count(math.inf)
    both = sum(map(math.isnan, gains))
    for n, p in zip(b.looks[look:], b.p[look:], strict=True):
        if best_p(n - both, against, favour) <= p / 2:
            return n if n > len(gains) else None
    beyond = speaks_from(b.p[-1], against, favour)
    return beyond and beyond + both


def sentence(reading: Reading, margin: str = "the margin") -> str:
    """A reading in words; `margin` as its user wrote it ("5 %")."""
    if reading.word == BETWEEN:
        return f"{BETWEEN}: next at {reading.next} pairs"
    word = reading.word.replace("the margin", margin)
    return f"{word} (could see a gain from {reading.speaks_from} pairs on)" if reading.speaks_from else word


def gain_of_distance(arm: float, baseline: float) -> float:
    """log(baseline / arm) of two distances > 0; a side that is not finite is lost."""
    lost = [not math.isfinite(d) for d in (arm, baseline)]
    if any(lost):
        return math.nan if all(lost) else -math.inf if lost[0] else math.inf
    if min(arm, baseline) <= 0:
        raise ValueError(f"distances {arm!r}, {baseline!r}: a ratio needs both above 0")
    return math.log(baseline / arm)


def margin_of_distance(share: float) -> float:
    """The gain of a distance that is lower by `share` (0.05: 5 %)."""
    if not 0 < share < 1:
        raise ValueError(f"margin: {share!r}: a share of a distance, above 0 and below 1")
    return -math.log1p(-share)


def change_of_distance(gain: float) -> float:
    """(arm - baseline) / baseline of such a gain: -0.05 is a distance 5 % lower."""
    return float(np.expm1(-gain))
