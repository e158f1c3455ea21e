"""The exact signed-rank test, in which a diverged run counts against its side instead of being left out.

Wilcoxon 1945 (https://doi.org/10.2307/3001968): rank the |d_i|, W = sum of the ranks of the positive d_i. With d_i as
likely as -d_i each of the 2^n sign patterns has the same probability, and p is the part of them with W at least (at
most) the observed one. Zeros are dropped, ties share their mean rank (Pratt and Gibbons 1981, chapter 3): the test is
exact given |d|. A pair of which one side diverged has the largest rank, against that side (several share it); a pair of
which both did says nothing, like a zero. Survivors alone would praise an arm that diverges where it would be bad.

A gain d > 0 favours the arm. `inf`: the baseline's side is lost, `-inf`: the arm's, `nan`: both.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

DIGITS = 12  # of the largest finite |d|, beyond which two are tied
MOST_PAIRS = 200  # a search for "from how many pairs on" ends here


class Tails(NamedTuple):
    """One-sided p: that gains are above 0, that they are below."""

    above: float
    below: float

    @property
    def two_sided(self) -> float:
        return min(1.0, 2 * min(self))


def signed_rank(gains: Sequence[float], null: float = 0.0) -> Tails:
    """The test of gains - `null`, pairs with a lost side included; (1, 1) where no pair says anything."""
    d = np.asarray(gains, np.float64) - null
    d = d[~np.isnan(d)]
    finite = np.abs(d[np.isfinite(d)])
    scale = max(float(finite.max(initial=0)), abs(null))
    size = np.abs(np.round(d / scale, DIGITS)) if scale else np.abs(d)
    d, size = d[size > 0], size[size > 0]
    if not len(d):
        return Tails(1.0, 1.0)
    twice = np.rint(2 * rankdata(size)).astype(int)  # mean ranks are multiples of 1/2
    return tails(tuple(sorted(twice.tolist())), int(twice[d > 0].sum()))


def tails(twice_ranks: tuple[int, ...], twice_w: int) -> Tails:
    """P(W >= w), P(W <= w) over all sign patterns of these ranks, both given doubled."""
    chance = distribution(twice_ranks)
    return Tails(float(chance[twice_w:].sum()), float(chance[: twice_w + 1].sum()))


@lru_cache(maxsize=512)
def distribution(twice_ranks: tuple[int, ...]) -> NDArray[np.float64]:
    """Probability of each 2 W, 0 to the sum of the doubled ranks: one rank after the other joins or does not."""
    chance = np.ones(1)
    for rank in twice_ranks:
        longer = np.zeros(len(chance) + rank)
        longer[: len(chance)] = chance / 2
        longer[rank:] += chance / 2
        chance = longer
    return chance


def ranks_with_lost(pairs: int, lost: int) -> tuple[int, ...]:
    """Doubled ranks of `pairs` untied pairs of which `lost` share the largest."""
    shown = pairs - lost
    return (*range(2, 2 * shown + 1, 2), *[2 * shown + lost + 1] * lost)


def best_p(pairs: int, against: int, favour: int = 0) -> float:
    """The least one-sided p for a gain: of `pairs`, `against` lost by the arm and `favour` by the baseline, every
    other pair in favour."""
    ranks = ranks_with_lost(pairs, against + favour)
    return tails(ranks, sum(ranks) - (against * ranks[-1] if against else 0)).above


def speaks_from(nominal: float, against: int = 0, favour: int = 0) -> int | None:
    """From how many pairs on a gain can be seen at the two-sided `nominal` p, if that many pairs are lost on either
    side and all others are in favour. None above MOST_PAIRS. At 0.05: 6 pairs, 12 if one is lost by the arm."""
    start = max(1, against + favour)
    reach = range(start, MOST_PAIRS + 1)  # the least p falls with every further pair
    n = start + bisect_left(reach, True, key=lambda pairs: best_p(pairs, against, favour) <= nominal / 2)
    return n if n <= MOST_PAIRS else None
