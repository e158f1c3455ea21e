"""What a handful of seeds can say: intervals, paired differences, and the verdict beside a paper's number.

Pure functions over plain floats. The unit of replication is the training seed; arms of one seed
share weights, batches and latents, so an arm is compared with the baseline seed by seed.
docs/verdicts.md states the same rules in words.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import gammaln, stdtr, stdtrit

from harness.verdict import words

LEVEL = 0.95
EXACT_PAIRS = 20  # up to 2^20 sign patterns are enumerated; beyond that DRAWS of them
DRAWS = 1 << 17
MOST_SEEDS = 10_000  # a search for "how many seeds" ends here

Word = words.Word | Literal["not run"]


class Summary(NamedTuple):
    """Mean over seeds; `sd`, `low` and `high` are None below two seeds."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.high is None else self.high - self.mean


class Paired(NamedTuple):
    """Arm minus baseline over shared seeds. `effect` is d_z (Hedges-corrected), None below three pairs."""

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    summary: Summary
    p_t: float | None
    p_flip: float | None
    effect: float | None


class Verdict(NamedTuple):
    """`share` is the interval of the effect in units of the paper's difference (1: as the paper, 0: none).
    `more_seeds`: further seeds that would settle an inconclusive one at the present mean and sd, if known."""

    word: Word
    share: tuple[float, float] | None = None
    more_seeds: int | None = None


def summary(values: Sequence[float], level: float = LEVEL) -> Summary:
    """Mean, sd (n - 1) and t-interval of at least one finite value."""
    if not values or not all(math.isfinite(v) for v in values):
        raise ValueError(f"values: {list(values)!r}: must be finite and at least one")
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Summary(1, mean, None, None, None)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    half = half_width(sd, len(values), level)
    return Summary(len(values), mean, sd, mean - half, mean + half)


def half_width(sd: float, n: int, level: float = LEVEL) -> float:
    """Half the t-interval of the mean of n >= 2 values with that sd: t(n - 1) sd / sqrt(n)."""
    return float(stdtrit(n - 1, 0.5 + level / 2)) * sd / math.sqrt(n)


def paired(arm: dict[int, float], baseline: dict[int, float], level: float = LEVEL) -> Paired | None:
    """Compare two arms, {seed: value}, over the seeds they share; None when they share none."""
    seeds = tuple(sorted(arm.keys() & baseline.keys()))
    if not seeds:
        return None
    differences = tuple(arm[s] - baseline[s] for s in seeds)
    s = summary(differences, level)
    return Paired(seeds, differences, s, t_test_p(s), sign_flip_p(differences), effect_size(s))


def t_test_p(s: Summary) -> float | None:
    """Two-sided p of a mean of zero; None below two values."""
    if s.sd is None:
        return None
    if s.sd == 0:
        return 0.0 if s.mean else 1.0
    return float(2 * stdtr(s.n - 1, -abs(s.mean) * math.sqrt(s.n) / s.sd))


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of the sign-flip permutation test: of all 2^n ways to swap arm and baseline within
    pairs, the part whose |mean| is at least the observed one. It cannot fall below 2 / 2^n, so five
    pairs can't reach 0.05. Exact up to EXACT_PAIRS pairs; None below two."""
    d = np.asarray(differences, np.float64)
    if len(d) < 2:
        return None
    # Ties with the observed sum must count although sums round differently.
    limit = abs(d.sum()) - 1e-9 * np.abs(d).sum()
    if len(d) <= EXACT_PAIRS:
        sums = np.zeros(1)
        for value in d:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= limit))
    rng, hits, block = np.random.default_rng(0), 0, 1 << 14
    for _ in range(DRAWS // block):
        flipped = np.unpackbits(rng.integers(256, size=(block, -(-len(d) // 8)), dtype=np.uint8), axis=1)[:, : len(d)]
        hits += int((np.abs(d.sum() - 2 * (flipped.astype(np.float64) @ d)) >= limit).sum())
    return (hits + 1) / (DRAWS + 1)


def effect_size(s: Summary) -> float | None:
    """Cohen's d_z = mean / sd of paired differences, times Hedges' exact small-sample correction
    J(v) = gamma(v/2) / (sqrt(v/2) gamma((v-1)/2)), v = n - 1. None below three pairs or at sd 0."""
    if s.n < 3 or not s.sd:
        return None
    v = s.n - 1
    correction = math.exp(gammaln(v / 2) - gammaln((v - 1) / 2)) / math.sqrt(v / 2)
    return correction * s.mean / s.sd


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given: reject where <= alpha."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def seeds_for(sd: float, precision: float, level: float = LEVEL) -> int | None:
    """Smallest n whose interval is mean +- `precision` or narrower, at that sd; None above MOST_SEEDS."""
    if precision <= 0:
        raise ValueError(f"precision: {precision!r}: must be > 0")
    return _first(2, lambda n: half_width(sd, n, level) <= precision)


def _first(start: int, holds: Callable[[int], bool]) -> int | None:
    """The smallest n from `start` to MOST_SEEDS for which `holds`, which once true stays true."""
    n = start + bisect_left(range(start, MOST_SEEDS + 1), True, key=holds)
    return n if n <= MOST_SEEDS else None


def judge(low: float, high: float) -> Word:
    """The verdict of an interval of the effect in units of the paper's difference.

    Above 0: same direction as the paper; it is replicated if it holds 1 as well. Wholly below 1/2:
    not even half the paper's effect is compatible with the data (this includes the other direction).
    """
    points = (0.0, words.PAPER.margin, 1.0)
    return words.first(words.Sides(*(words.side(low, high, m) for m in points)), words.PAPER)


def verdict(differences: Sequence[float], paper_difference: float, level: float = LEVEL, lost: int = 0) -> Verdict:
    """Paired differences of an arm against the paper's difference of the same two arms (not 0).

    `lost`: planned pairs in which a run diverged or failed for good. With one the rest are survivors, of which a
    t-interval says nothing (with no effect at all it is positive in 4 to 6 % of comparisons): the verdict is open.
    """
    if not paper_difference:
        raise ValueError("paper_difference: 0: a paper that sees no difference claims no direction")
    if lost:
        return Verdict("inconclusive")
    if not differences:
        return Verdict("not run")
    s = summary([d / paper_difference for d in differences], level)
    if s.sd is None or s.low is None or s.high is None:
        return Verdict("inconclusive")
    word, share = judge(s.low, s.high), (s.low, s.high)
    if word != "inconclusive":
        return Verdict(word, share)

    def settles(n: int) -> bool:
        half = half_width(sd, n, level)
        return judge(mean - half, mean + half) != "inconclusive"

    mean, sd = s.mean, s.sd
    enough = _first(s.n + 1, settles)
    return Verdict(word, share, enough and enough - s.n)
