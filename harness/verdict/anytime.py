"""Evidence that may be looked at after every pair, and that no stopping rule can bend.

An e-value is, with no effect, a nonnegative martingale that begins at 1: it ever reaches 1 / a with probability at most
a (Ville), so e >= 40 is a one-sided level of 2.5 % whenever one looks. The price beside planned looks of 4, 8 and 12
pairs: about 5 pairs more at an effect of one sd of a difference.

**t.** The likelihood ratio of the maximal invariant, the direction u = sum d / sqrt(n sum d^2) of the differences (one
to one with t), so whatever their sd; averaged over effects delta = mean / sd > 0 that are half-normal with scale g:

    e_n = integral f_t(t; n - 1, delta sqrt n) / f_t(t; n - 1, 0) 2 phi(delta / g) / g d delta
        = 2 (1 + n g^2)^(-1/2) (1 - q)^(-n/2) F_n(sign(u) sqrt(n q / (1 - q))),    q = u^2 n g^2 / (1 + n g^2)

with F_n the distribution function of t with n degrees of freedom. Perez-Ortiz, Lardy, de Heide and Grunwald,
"E-statistics, group invariance and anytime-valid testing" (https://arxiv.org/abs/2208.07610); Wang and Ramdas,
"Anytime-valid t-tests and confidence sequences" (https://arxiv.org/abs/2310.03722). Without the factor 2 F_n it is the
Bayes factor of Gonen et al. 2005 (https://doi.org/10.1198/000313005X55233).

**Sign.** Once a side diverged: k of n pairs in favour, the rate of favour uniform on (1/2, 1):

    e_n = integral 2 r^k (1 - r)^(n - k) 2^n dr = k! (n - k)! / (n + 1)! sum over j <= k of C(n + 1, j)
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, gammaln, logsumexp, stdtr

from harness.verdict.sequential import ALPHA

SCALE = 1.5
ENOUGH = 2 / ALPHA  # 40: one-sided 2.5 %


class Evidence(NamedTuple):
    """e-values for and against a gain after `pairs` pairs; `test`: which. Infinite where a float cannot hold it."""

    better: float
    worse: float
    pairs: int
    test: Literal["t", "sign"]


def evidence(gains: Sequence[float], scale: float = SCALE) -> Evidence:
    """Of the pairs that have ended, in the plan's order and without a gap in it: gains as in signed_rank.py."""
    d = np.asarray(gains, np.float64)
    if np.isfinite(d).all():
        n, u = len(d), direction(d)
        better, worse = (_exp(float(log_e_t(n, v, scale))) for v in (u, -u))
        return Evidence(better, worse, n, "t")
    for_it, against = int((d > 0).sum()), int((d < 0).sum())
    both = for_it + against
    return Evidence(_exp(log_e_sign(for_it, both)), _exp(log_e_sign(against, both)), len(d), "sign")


def direction(d: NDArray[np.float64]) -> float:
    """sum d / sqrt(n sum d^2), -1 to 1; 0 where there is nothing but zeros."""
    largest = float(np.abs(d).max(initial=0))
    if not largest:
        return 0.0
    d = d / largest  # so that no square overflows or vanishes
    return float(np.clip(d.sum() / math.sqrt(len(d) * float(d @ d)), -1, 1))


def log_e_t(n: ArrayLike, u: ArrayLike, scale: float = SCALE) -> NDArray[np.float64]:
    """log e_n of the t-test for a gain, elementwise: `n` pairs (0 and up), direction `u` (-1 to 1)."""
    n, u = np.broadcast_arrays(np.asarray(n, np.float64), np.asarray(u, np.float64))
    spread = n * scale**2
    q = u * u * spread / (1 + spread)
    rest = ((1 - u) * (1 + u) * spread + 1) / (1 + spread)  # 1 - q without cancellation
    freedom = np.maximum(n, 1)
    share = stdtr(freedom, np.sign(u) * np.sqrt(n * q / rest))
    with np.errstate(divide="ignore"):
        log_e = math.log(2) - np.log1p(spread) / 2 - n / 2 * np.log(rest) + np.log(share)
    tiny = np.asarray(share < 1e-200)  # only for u < 0
    if tiny.any():
        log_e = np.array(log_e)
        log_e[tiny] = [_log_e_far_below(m, r, scale) for m, r in zip(n[tiny], rest[tiny], strict=True)]
    return np.where(n > 0, log_e, 0.0)


def _log_e_far_below(n: float, rest: float, scale: float) -> float:
    """The same where F_n is too small for a float. F_n(-x) is half the regularised incomplete beta function of (n/2,
    1/2) at 1 - q, whose power series takes up the factor (1 - q)^(-n/2)."""
    k = np.arange(math.ceil(40 / -math.log(rest)))
    log_terms = gammaln(k + 0.5) - gammaln(0.5) - gammaln(k + 1) + k * math.log(rest) - np.log1p(2 * k / n)
    return -math.log1p(n * scale**2) / 2 + math.log(2 / n) - betaln(n / 2, 0.5) + float(logsumexp(log_terms))


def log_e_sign(favour: int, pairs: int) -> float:
    """log e of `favour` out of `pairs` pairs with a sign."""
    j = np.arange(favour + 1)
    return float(betaln(favour + 1, pairs - favour + 1) + logsumexp(-betaln(j + 1, pairs + 2 - j) - np.log(pairs + 2)))


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf
