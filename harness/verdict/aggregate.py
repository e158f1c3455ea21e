"""Scores of several runs on several tasks (settings, data sets) as one figure with an interval.

Scores are [runs, tasks], more is better: a distance is turned round and divided by the baseline's first (`normalised`).
Row r of arm and baseline is the same seed, so the bootstrap draws *rows*, once for both arms: rliable's, which draws
runs within each task and arm, loses the pairing. Point values are those of Agarwal et al. 2021, "Deep reinforcement
learning at the edge of the statistical precipice" (https://arxiv.org/abs/2108.13264).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.verdict.sequential import Floats

REPLICATES, SEED, LEVEL = 20_000, 18, 0.95
TRIM = 0.25
Curve = Sequence[tuple[float, float]]  # (kimg, distance) of a run's snapshots


def normalised(distances: Floats, baseline: Floats) -> Floats:
    """Distances [runs, tasks] as scores: the baseline's mean of a task over the distance; 1 is as the baseline, 2 half
    its distance. A run without a finite distance has score 0."""
    finite = np.where(np.isfinite(baseline), baseline, np.nan)
    with np.errstate(divide="ignore"):
        return np.where(np.isfinite(distances), np.nanmean(finite, axis=0) / distances, 0.0)


def interquartile_mean(scores: Floats) -> float:
    """Mean of all scores together without the floor(n / 4) lowest and highest."""
    ordered = np.sort(scores, axis=None)
    cut = math.floor(TRIM * len(ordered))
    return float(ordered[cut : len(ordered) - cut].mean())


def optimality_gap(scores: Floats, goal: float = 1.0) -> float:
    """goal - mean of min(score, goal)."""
    return goal - float(np.minimum(scores, goal).mean())


def improvements(arm: Floats, baseline: Floats) -> Floats:
    """By task: the share of (arm's run, baseline's run) in which the arm's score is higher; ties count half."""
    d = arm[:, None] - baseline[None]
    return np.asarray(((d > 0) + (d == 0) / 2).mean(axis=(0, 1)), np.float64)


def probability_of_improvement(arm: Floats, baseline: Floats) -> float:
    """Mean of `improvements` over tasks, 0 to 1; 0.5 if the arms are alike."""
    return float(improvements(arm, baseline).mean())


def performance_profile(scores: Floats, thresholds: Floats) -> Floats:
    """Share of all scores above each threshold."""
    return np.asarray((scores[..., None] > thresholds).mean(axis=tuple(range(scores.ndim))), np.float64)


def rows_drawn(runs: int, replicates: int = REPLICATES, seed: int = SEED) -> NDArray[np.int64]:
    """Rows of each bootstrap replicate, [replicates, runs]."""
    return np.random.default_rng(seed).integers(runs, size=(replicates, runs))


def bootstrap(statistic: Callable[..., float], arms: Sequence[Floats], rows: NDArray[np.int64]) -> Floats:
    """The statistic of `arms` (each [runs, ...], row by row the same seeds) with the same rows drawn for all."""
    return np.array([statistic(*(arm[drawn] for arm in arms)) for drawn in rows])


def interval(replicates: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval; where replicates are infinite, its ends are the replicates next outside."""
    tails = (100 * (1 - level) / 2, 100 * (1 + level) / 2)
    if np.isfinite(replicates).all():
        return float(np.percentile(replicates, tails[0])), float(np.percentile(replicates, tails[1]))
    low = np.percentile(replicates, tails[0], method="lower")
    return float(low), float(np.percentile(replicates, tails[1], method="higher"))


def images_to_target(curve: Curve, target: float) -> float:
    """kimg of the first snapshot whose distance is `target` or lower; inf if none is."""
    return min((kimg for kimg, d in curve if math.isfinite(d) and d <= target), default=math.inf)


def images_to_baseline(arm: Sequence[Curve], baseline: Sequence[Curve]) -> float:
    """Median over the arm's runs of the kimg until they reach the baseline's median last distance; a run that has no
    finite last distance counts as infinitely far."""
    target = float(np.median([_last(c) for c in baseline]))
    return float(np.median([images_to_target(c, target) for c in arm]))


def images_to_baseline_replicates(arm: Sequence[Curve], baseline: Sequence[Curve], rows: NDArray[np.int64]) -> Floats:
    """`images_to_baseline` with the same seeds drawn for both arms, so that the target moves along."""
    return np.array([images_to_baseline([arm[i] for i in drawn], [baseline[i] for i in drawn]) for drawn in rows])


def _last(curve: Curve) -> float:
    if not curve:
        return math.inf
    distance = max(curve)[1]
    return distance if math.isfinite(distance) else math.inf
