"""Boundaries for looks at 4, then 8, then 12 pairs, at which a comparison may stop.

At look k, of n_k pairs, the paired t-test (n_k - 1 degrees of freedom) is passed at two-sided nominal p_k:

    obrien_fleming  z_k = c sqrt(n_K / n_k)      pocock  z_k = c      p_k = 2 (1 - Phi(z_k))

These are the classical shapes with one constant (O'Brien and Fleming 1979, https://doi.org/10.2307/2530245; Pocock
1977, https://doi.org/10.1093/biomet/64.2.191), not a spending function. c is such that, with no effect and normal
differences, the t-tests together pass with probability alpha: c of normal theory is too small at such n (4, 8, 12:
2.0040 for 2.0227). It is found by simulation with a fixed seed, whose error is stated. What is simulated is the
overlap alone, E max(N - 1, 0) with N the looks passed; the rest is exact:

    P(any look is passed) = sum of p_k - E max(N - 1, 0)

Interval and p at a look are the *repeated* ones of Jennison and Turnbull (1989,
https://doi.org/10.1111/j.2517-6161.1989.tb01433.x): mean -+ t_k sd / sqrt(n_k), which hold the true mean at all looks
together with probability 1 - alpha whatever rule ends the experiment; p, the least alpha at which a design of this
shape would have stopped here. So p < alpha just where the interval excludes 0. One look is the ordinary t-test.
One-sided in either direction: half of alpha each (that one sequence passes on both sides is below 1e-5).
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from harness.disk import cache_folder, parsed, write_atomic

Shape = Literal["obrien_fleming", "pocock"]
Floats = NDArray[np.float64]

ALPHA = 0.05  # two-sided, over all looks
FIRST = 3  # pairs at which a plan of several looks may begin
SEED, SEQUENCES, BLOCK = 18, 1 << 22, 1 << 17
MOST_LOOKS = 1 << 24  # sequences times looks: a plan of many looks is simulated with fewer sequences
CONSTANTS = np.linspace(0, 8, 257)  # where the overlap is tabulated; above it is taken as none, so that p is too large
FREQUENT = 1.25  # below this constant one block of sequences says enough


class Boundaries(NamedTuple):
    """One value a look; `*_error`: standard errors of the simulation. A look is passed if |t| > `t`, or p < `p`.

    `overlap`: E max(N - 1, 0) at each of CONSTANTS.
    """

    looks: tuple[int, ...]
    shape: Shape
    alpha: float
    constant: float
    constant_error: float
    z: tuple[float, ...]
    p: tuple[float, ...]
    p_error: tuple[float, ...]
    t: tuple[float, ...]
    t_error: tuple[float, ...]
    overlap: tuple[float, ...]

    def overall(self, constant: float) -> float:
        """Probability, with no effect, that some look of this shape is passed with that constant (0 to 1)."""
        return min(1.0, _overall(constant, _weights(self.looks, self.shape), np.asarray(self.overlap)))

    def adjusted_p(self, look: int, nominal: float) -> float:
        """The repeated p of a look (0: the first) whose own test gave the two-sided p `nominal`."""
        z = float(-ndtri(nominal / 2))
        return self.overall(z / float(_weights(self.looks, self.shape)[look])) if math.isfinite(z) else 0.0

    def half_width(self, look: int, sd: float) -> float:
        """Half the repeated interval of the mean of that look's pairs with standard deviation `sd`."""
        return self.t[look] * sd / math.sqrt(self.looks[look]) if sd else 0.0


def check(looks: Sequence[int], shape: str = "obrien_fleming", alpha: float = ALPHA) -> None:
    """Raise ValueError unless these are looks: ascending, from 3 pairs up (2, if there is one look)."""
    least = FIRST if len(looks) > 1 else 2
    if not looks or looks[0] < least or any(a >= b for a, b in pairwise(looks)):
        raise ValueError(f"looks: {list(looks)}: numbers of pairs in ascending order, the first at least {least}")
    if shape not in get_args(Shape):
        raise ValueError(f"shape: {shape!r}: one of {', '.join(get_args(Shape))}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: {alpha!r}: must lie between 0 and 1")


@lru_cache(maxsize=256)
def boundaries(looks: tuple[int, ...], shape: Shape = "obrien_fleming", alpha: float = ALPHA) -> Boundaries:
    """The boundaries of a plan; seconds the first time, then from memory or the cache folder."""
    check(looks, shape, alpha)
    weights = _weights(looks, shape)
    overlap, error = _tabulated(looks, shape)
    constant = brentq(lambda c: _overall(c, weights, overlap) - alpha, 0, 40, xtol=1e-12)
    step = 1 / 16
    slope = (_overall(constant - step, weights, overlap) - _overall(constant + step, weights, overlap)) / (2 * step)
    constant_error = float(np.interp(constant, CONSTANTS, error)) / slope
    z = constant * weights
    p = 2 * ndtr(-z)
    freedom = np.asarray(looks) - 1
    t = -stdtrit(freedom, p / 2)
    p_error = 2 * _normal_density(z) * weights * constant_error
    t_error = np.where(np.isfinite(t), (p_error / 2) / np.maximum(_t_density(t, freedom), 1e-300), 0)
    row = [tuple(v.tolist()) for v in (z, p, p_error, t, t_error, overlap)]
    return Boundaries(looks, shape, alpha, constant, constant_error, *row)


def _weights(looks: tuple[int, ...], shape: Shape) -> Floats:
    """z_k / c."""
    n = np.asarray(looks, np.float64)
    return np.sqrt(n[-1] / n) if shape == "obrien_fleming" else np.ones(len(n))


def _overall(constant: float, weights: Floats, overlap: Floats) -> float:
    common = float(np.interp(constant, CONSTANTS, overlap, right=0))
    return float(np.sum(2 * ndtr(-constant * weights))) - common


def _normal_density(z: Floats) -> Floats:
    return np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _t_density(t: Floats, freedom: Floats) -> Floats:
    step = 1e-5 * np.where(np.isfinite(t), t, 1)
    return (stdtr(freedom, -t + step) - stdtr(freedom, -t - step)) / (2 * step)


def _tabulated(looks: tuple[int, ...], shape: Shape) -> tuple[Floats, Floats]:
    """`_simulated`, kept in the cache folder under what it follows from."""
    if len(looks) == 1:
        return np.zeros_like(CONSTANTS), np.zeros_like(CONSTANTS)
    made_of = [looks, shape, SEED, SEQUENCES, BLOCK, MOST_LOOKS, FREQUENT, len(CONSTANTS), CONSTANTS[-1]]
    name = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
    path = cache_folder() / "boundaries" / f"{name}.json"
    try:
        kept = parsed(path.read_bytes())
        overlap, error = (np.asarray(kept[key], np.float64) for key in ("overlap", "error"))
        if overlap.shape == error.shape == CONSTANTS.shape and np.isfinite(overlap + error).all():
            return overlap, error
    except (OSError, KeyError, ValueError, TypeError):
        pass
    overlap, error = _simulated(looks, shape)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs seconds, not a verdict
        write_atomic(path, json.dumps({"overlap": overlap.tolist(), "error": error.tolist()}).encode())
    return overlap, error


def _simulated(looks: tuple[int, ...], shape: Shape) -> tuple[Floats, Floats]:
    """E max(N - 1, 0) at each of CONSTANTS, and its standard error."""
    rng = np.random.default_rng([SEED, *looks])
    weights, freedom = _weights(looks, shape), np.asarray(looks) - 1
    bound = -stdtrit(freedom, ndtr(-FREQUENT * weights))
    blocks = max(1, min(SEQUENCES, MOST_LOOKS // len(looks)) // BLOCK)
    # Of all blocks, how often a j-th largest constant (j >= 2) lies in a bin; weighted 1 for the first moment of
    # max(N - 1, 0), and 2 j - 3 = (j - 1)^2 - (j - 2)^2 for the second.
    first, all_blocks = np.zeros((2, len(CONSTANTS))), np.zeros((2, len(CONSTANTS)))
    rank = np.arange(2, len(looks) + 1)
    for block in range(blocks):
        t = np.abs(t_of_looks(rng, looks, BLOCK))
        if block:
            t = t[(t >= bound).sum(axis=1) > 1]
        # The constant with which a look would just be passed.
        needed = -ndtri(stdtr(freedom, -t)) / weights
        needed = -np.sort(-needed, axis=1)[:, 1:]
        place = np.searchsorted(CONSTANTS, needed.ravel(), side="right") - 1
        for row, weight in enumerate((np.ones_like(rank), 2 * rank - 3)):
            found = np.bincount(place, np.broadcast_to(weight, needed.shape).ravel(), len(CONSTANTS))
            all_blocks[row] += found
            if not block:
                first[row] += found
    often = CONSTANTS < FREQUENT
    sequences = np.where(often, BLOCK, blocks * BLOCK)
    mean, square = np.where(often, _at_least(first), _at_least(all_blocks)) / sequences
    mean = np.minimum.accumulate(mean)
    return mean, np.sqrt(np.maximum(square - mean**2, 0) / sequences)


def _at_least(found: Floats) -> Floats:
    return found[:, ::-1].cumsum(axis=1)[:, ::-1]


def t_of_looks(rng: np.random.Generator, looks: tuple[int, ...], sequences: int, effect: float = 0.0) -> Floats:
    """t at each look, [sequences, looks], of normal differences with mean `effect` and sd 1. What a look adds is drawn
    as its sum and its sum of squares about its mean."""
    t = np.empty((sequences, len(looks)))
    total, square = np.zeros(sequences), np.zeros(sequences)
    before = 0
    for k, n in enumerate(looks):
        new = n - before
        added = rng.standard_normal(sequences) * math.sqrt(new) + new * effect
        total += added
        square += added * added / new
        if new > 1:
            square += 2 * rng.standard_gamma((new - 1) / 2, sequences)
        mean = total / n
        t[:, k] = mean * math.sqrt(n) / np.sqrt((square - total * mean) / (n - 1))
        before = n
    return t
