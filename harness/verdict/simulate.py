"""The rule of words.py over many experiments at once: what a plan can see, what it costs, how often it errs.

Experiments are rows of gains [experiments, pairs] in the plan's order, lost sides as in words.py, no two |gains| equal.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri

from harness.verdict.sequential import Boundaries, Floats, t_of_looks
from harness.verdict.signed_rank import distribution, ranks_with_lost
from harness.verdict.words import FUTILE, POSITIVE, UNSETTLED, Plan, Question, Sides, rules

EXPERIMENTS, SEED = 40_000, 18
MOST_EFFECT = 1000.0  # sd


class Outcome(NamedTuple):
    """Shares of experiments by word; mean number of pairs at which they stopped."""

    words: dict[str, float]
    pairs: float

    @property
    def positive(self) -> float:
        return sum(self.words.get(w, 0.0) for w in POSITIVE)

    @property
    def futile(self) -> float:
        return sum(self.words.get(w, 0.0) for w in FUTILE)


def words(gains: Floats, plan: Plan, question: Question) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Each experiment's word, and the pairs of the look that gave it."""
    b, of = plan.boundaries, rules(question)
    names = np.array([name for name, _ in of])
    word, pairs = np.full(len(gains), names[-1], names.dtype), np.full(len(gains), plan.looks[-1])
    open_rows = np.arange(len(gains))
    for look, n in enumerate(plan.looks):
        seen = gains[open_rows, :n]
        sides = Sides(*_sides(seen, look, b, (0.0, question.margin, 1.0)))
        now = names[np.select([holds(sides) for _, holds in of], range(len(of)))]
        word[open_rows], pairs[open_rows] = now, n
        open_rows = open_rows[np.isin(now, UNSETTLED)]
    return word, pairs


def _sides(gains: Floats, look: int, b: Boundaries, points: tuple[float, ...]) -> NDArray[np.int64]:
    """Sides of each point, [points, rows]."""
    found = np.zeros((len(points), len(gains)), np.int64)
    whole = np.isfinite(gains).all(axis=1)
    kept, lost = gains[whole], gains[~whole]
    mean = kept.mean(axis=1)
    half = b.t[look] * kept.std(axis=1, ddof=1) / np.sqrt(b.looks[look])
    for i, point in enumerate(points):
        found[i, whole] = (mean - half > point) * 1 - (mean + half < point)
        above, below = signed_rank_tails(lost - point)
        found[i, ~whole] = (above <= b.p[look] / 2) * 1 - (below <= b.p[look] / 2)
    return found


def signed_rank_tails(d: Floats) -> tuple[Floats, Floats]:
    """`signed_rank` of each row [rows, pairs]."""
    infinite, said = np.isinf(d), ~np.isnan(d)
    size = np.where(said, np.abs(d), np.inf)
    lost, pairs = infinite.sum(axis=1), said.sum(axis=1)
    rank = 2 * (size.argsort(axis=1).argsort(axis=1) + 1)
    rank = np.where(infinite, (2 * (pairs - lost) + lost + 1)[:, None], rank)
    w = np.where(said & (d > 0), rank, 0).sum(axis=1)
    above, below = np.ones(len(d)), np.ones(len(d))
    for n, m in set(zip(pairs.tolist(), lost.tolist(), strict=True)):
        rows = (pairs == n) & (lost == m)
        chance = distribution(ranks_with_lost(n, m))
        above[rows] = chance[::-1].cumsum()[::-1][w[rows]]
        below[rows] = chance.cumsum()[w[rows]]
    return above, below


def outcome(gains: Floats, plan: Plan, question: Question) -> Outcome:
    word, pairs = words(gains, plan, question)
    found, count = np.unique(word, return_counts=True)
    return Outcome(dict(zip(found.tolist(), (count / len(word)).tolist(), strict=True)), float(pairs.mean()))


def normal_gains(
    rng: np.random.Generator, experiments: int, pairs: int, effect: float, sd: float, diverging: float = 0.0
) -> Floats:
    """Normal gains of that mean and sd, half of whose variance is each side's own; the worst `diverging` part of either
    side's runs diverges."""
    arm, baseline = rng.normal(0, sd / math.sqrt(2), (2, experiments, pairs))  # distances
    worst = -float(ndtri(diverging)) * sd / math.sqrt(2)
    return lose(effect + baseline - arm, arm > worst, baseline > worst)


def lose(gains: Floats, arm: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> Floats:
    """The gains with these sides lost."""
    return np.where(arm, np.where(baseline, np.nan, -np.inf), np.where(baseline, np.inf, gains))


def foreseen(
    plan: Plan, question: Question, effect: float, sd: float, diverging: float = 0.0, experiments: int = EXPERIMENTS
) -> Outcome:
    """What the plan will say if the mean gain is `effect` and its sd over pairs is `sd`, both before any run is lost;
    standard error of a share at most 0.25 % by default. The seed is fixed."""
    rng = np.random.default_rng(SEED)
    return outcome(normal_gains(rng, experiments, plan.looks[-1], effect, sd, diverging), plan, question)


def effect_seen(plan: Plan, sd: float, power: float = 0.8, experiments: int = EXPERIMENTS) -> float:
    """The mean gain that the plan calls better with probability `power` if nothing is lost and no arm is given up."""
    bound = np.array(plan.boundaries.t)

    def short(effect: float) -> float:
        t = t_of_looks(np.random.default_rng(SEED), plan.looks, experiments, effect)
        return float((t > bound).any(axis=1).mean()) - power

    return sd * float(brentq(short, 0, MOST_EFFECT, xtol=1e-3))
