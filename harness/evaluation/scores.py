"""What D's raw scores of real and generated images say: pure functions on two pools of numbers.

The paper's disequilibrium indicator (DI) of one repeat is min D(real) - max D(fake) over n
real and n generated images; it reports the mean of 200 repeats. That mean estimates the
expectation over all ways to draw n + n images from the scored pools, which order statistics
give exactly: no resampling, no Monte Carlo error. docs/di.md explains what it hides.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import Diverged

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """A value and its standard error; `se` is None where the pool is too small to tell."""

    value: float
    se: float | None


def minimum_weights(size: int, n: int, *, replacement: bool = False) -> Array:
    """P(the i-th smallest of `size` scores is the smallest of n drawn), i = 0.. [size].

    Without replacement C(size-1-i, n-1) / C(size, n), as a running product: every factor is
    exact to rounding, so no binomial ever overflows. With replacement the difference of
    ((size-i)/size)^n.
    """
    if not n >= 1 or (n > size and not replacement):
        raise ValueError(f"n: {n}: must be between 1 and the {size} scores of the pool")
    i = np.arange(size, dtype=np.float64)
    if replacement:
        tail = ((size - np.arange(size + 1, dtype=np.float64)) / size) ** n
        return tail[:-1] - tail[1:]
    ratios = np.empty(size)
    ratios[0] = n / size
    ratios[1:] = np.maximum(size - n - i[:-1], 0) / (size - 1 - i[:-1])
    return np.asarray(np.cumprod(ratios), np.float64)


def expected_minimum(scores: Array, n: int, *, replacement: bool = False) -> tuple[float, float]:
    """Mean and variance of the smallest of n scores drawn at random from the pool [N]."""
    ordered = np.sort(np.asarray(scores, np.float64))
    weights = minimum_weights(len(ordered), n, replacement=replacement)
    mean = float(weights @ ordered)
    return mean, float(weights @ (ordered - mean) ** 2)


def expected_di(real: Array, fake: Array, n: int, *, replacement: bool = False) -> float:
    """The exact expectation of DI over all draws of n + n scores, in the units of D's logits."""
    low, _ = expected_minimum(real, n, replacement=replacement)
    high, _ = expected_minimum(-np.asarray(fake), n, replacement=replacement)  # max x = -min(-x)
    return low + high


def di_variance(real: Array, fake: Array, n: int) -> float:
    """The exact variance of DI in one repeat of n + n; its mean of k repeats has variance / k."""
    return expected_minimum(real, n)[1] + expected_minimum(-np.asarray(fake), n)[1]


def sampled_di(real: Array, fake: Array, n: int, repeats: int, rng: np.random.Generator) -> Estimate:
    """The paper's estimator: mean over `repeats` draws of n + n, with the standard error of that mean.

    A pool of at least n * repeats scores gives every repeat fresh images; a smaller one is
    redrawn for each repeat, and then the error is that of the redrawing alone. Neither says
    anything of other seeds of the training.
    """
    lowest = real[draws(len(real), n, repeats, rng)].min(1)
    highest = fake[draws(len(fake), n, repeats, rng)].max(1)
    values = lowest - highest
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(repeats)) if repeats > 1 else None)


def draws(size: int, n: int, repeats: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows [repeats, n] of a pool, without replacement in a repeat, and over all of them if it is large enough."""
    if size >= n * repeats:
        return rng.permutation(size)[: n * repeats].reshape(repeats, n)
    return np.stack([rng.choice(size, n, replace=False) for _ in range(repeats)])


def exact_di(real: Array, fake: Array, n: int) -> Estimate:
    """`expected_di` with the jackknife standard error that the finite pools leave; O(N log N)."""
    value = expected_di(real, fake, n)
    if min(len(real), len(fake)) <= n:
        return Estimate(value, None)
    return Estimate(value, _two_sample_error(_without_each(real, n), _without_each(-np.asarray(fake), n)))


def exchangeable_di(real: Array, fake: Array, n: int) -> float:
    """DI when the labels real and fake carry no information: its exact mean over all
    permutations of the labels, which is a draw of n and n from the union of both pools."""
    union = np.concatenate([real, fake])
    return expected_di(union, union, n)


def calibrated_di(real: Array, fake: Array, n: int) -> Estimate:
    """(DI - exchangeable DI) / pooled standard deviation.

    0 in expectation when both pools follow one distribution, positive when D tells reals from
    fakes, and unchanged when D's logits are scaled or shifted. The error is a jackknife of the
    whole expression over both pools. Raises Diverged if all scores are equal.
    """
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    spread = pooled_std(real, fake)
    value = (expected_di(real, fake, n) - exchangeable_di(real, fake, n)) / spread
    if min(len(real), len(fake)) <= n:
        return Estimate(value, None)
    union = np.concatenate([real, fake])
    null_left_out = _without_each(union, n) + _without_each(-union, n)
    mean_low, mean_high = expected_minimum(real, n)[0], expected_minimum(-fake, n)[0]
    without_real = (_without_each(real, n) + mean_high - null_left_out[: len(real)]) / _std_without_each(real, fake)
    without_fake = (mean_low + _without_each(-fake, n) - null_left_out[len(real) :]) / _std_without_each(fake, real)
    return Estimate(value, _two_sample_error(without_real, without_fake))


def pooled_std(real: Array, fake: Array) -> float:
    """Standard deviation within the two pools, weighted by their sizes. Diverged if it is 0."""
    scatter = np.var(real) * len(real) + np.var(fake) * len(fake)
    std = float(np.sqrt(scatter / (len(real) + len(fake) - 2)))
    if not std > 0:
        raise Diverged("scores: D gives every image the same score, so nothing can be compared with their spread")
    return std


def gap(real: Array, fake: Array) -> Estimate:
    """(mean real - mean fake) / pooled standard deviation; the error treats the spread as known."""
    std = pooled_std(real, fake)
    error = np.sqrt(np.var(real, ddof=1) / len(real) + np.var(fake, ddof=1) / len(fake)) / std
    return Estimate(float((np.mean(real) - np.mean(fake)) / std), float(error))


def auc(real: Array, fake: Array) -> Estimate:
    """P(a real scores above a fake), ties counted half: D as a classifier of single images.
    0.5 means that it can't tell. The error is DeLong's."""
    above = (_rank(fake, real, "left") + _rank(fake, real, "right")) / (2 * len(fake))
    below = 1 - (_rank(real, fake, "left") + _rank(real, fake, "right")) / (2 * len(real))
    error = np.sqrt(np.var(above, ddof=1) / len(real) + np.var(below, ddof=1) / len(fake))
    return Estimate(float(above.mean()), float(error))


def wasserstein(real: Array, fake: Array) -> float:
    """Wasserstein-1 distance of the two score distributions, in the units of D's logits."""
    from scipy.stats import wasserstein_distance  # takes as long to load as a report of 1,000 trials to make

    return float(wasserstein_distance(real, fake))


def score_summary(real: Array, fake: Array) -> dict[str, float]:
    """Minimum, quantiles, mean and maximum of both pools, for the curves of one training tick
    (the paper's Fig. 1): {"real_min": ..., "real_q05": ..., "fake_max": ...}."""
    summary: dict[str, float] = {}
    for name, scores in (("real", real), ("fake", fake)):
        scores = finite(scores, f"scores/{name}")
        low, q05, q25, q50, q75, q95, high = np.quantile(scores, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
        values = {"min": low, "q05": q05, "q25": q25, "q50": q50, "q75": q75, "q95": q95, "max": high}
        summary |= {f"{name}_{key}": float(value) for key, value in values.items()}
        summary[f"{name}_mean"] = float(scores.mean())
    return summary


def quick_di(real: Array, fake: Array, n: int = 64) -> dict[str, float]:
    """DI and its scale-free companions of small pools, for a snapshot in mid-training:
    {"di", "di_calibrated", "auc", "gap"}. Pools smaller than n are drawn whole."""
    real, fake = finite(real, "scores/real"), finite(fake, "scores/fake")
    n = min(n, len(real), len(fake))
    return {
        "di": expected_di(real, fake, n),
        "di_calibrated": calibrated_di(real, fake, n).value,
        "auc": auc(real, fake).value,
        "gap": gap(real, fake).value,
    }


def finite(scores: Array, name: str) -> Array:
    """`scores` as flat float64, or Diverged naming them: a NaN would vanish in a minimum."""
    scores = np.asarray(scores, np.float64).reshape(-1)
    if not np.isfinite(scores).all():
        raise Diverged(f"{name}: {np.count_nonzero(~np.isfinite(scores))} of {len(scores)} are not finite")
    return scores


def _rank(pool: Array, values: Array, side: str) -> Array:
    return np.searchsorted(np.sort(pool), values, side=side).astype(np.float64)  # type: ignore[call-overload]


def _without_each(scores: Array, n: int) -> Array:
    """The expected minimum of n with each score left out in turn, in the order given; O(N log N)."""
    order = np.argsort(scores)
    ordered = np.asarray(scores, np.float64)[order]
    weights = minimum_weights(len(ordered) - 1, n)
    below = np.concatenate([[0.0], np.cumsum(ordered[:-1] * weights)])
    above = np.concatenate([np.cumsum((ordered[1:] * weights)[::-1])[::-1], [0.0]])
    left_out = np.empty_like(ordered)
    left_out[order] = below + above
    return left_out


def _std_without_each(pool: Array, other: Array) -> Array:
    """The pooled standard deviation with each of `pool` left out in turn."""
    size = len(pool)
    centred = pool - pool.mean()
    scatter = centred @ centred - centred**2 * size / (size - 1)
    return np.sqrt((scatter + np.var(other) * len(other)) / (size + len(other) - 3))


def _two_sample_error(first: Array, second: Array) -> float:
    """Jackknife standard error from the leave-one-out values of two independent samples."""
    return float(np.sqrt(sum(np.var(x) * (len(x) - 1) for x in (first, second))))
