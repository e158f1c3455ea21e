"""The exact signed-rank test against scipy, against all sign patterns one by one, and with lost sides."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import rankdata, wilcoxon

from harness.verdict.signed_rank import best_p, signed_rank, speaks_from

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("n", [1, 2, 5, 9, 14])
@pytest.mark.parametrize("null", [0.0, 0.4])
def test_without_ties_it_is_scipys_exact_test(n, null):
    d = np.random.default_rng(n).normal(0.3, 1, n)
    p = signed_rank(d.tolist(), null)
    assert p.above == pytest.approx(wilcoxon(d - null, alternative="greater", method="exact").pvalue, abs=1e-12)
    assert p.below == pytest.approx(wilcoxon(d - null, alternative="less", method="exact").pvalue, abs=1e-12)


def by_patterns(d: list[float]) -> tuple[float, float]:
    shown = np.array([x for x in d if not math.isnan(x) and x != 0])
    if not len(shown):
        return 1.0, 1.0
    ranks = rankdata(np.abs(shown))
    seen = ranks[shown > 0].sum()
    all_w = [ranks[np.array(s, bool)].sum() for s in itertools.product((0, 1), repeat=len(ranks))]
    return float(np.mean([w >= seen for w in all_w])), float(np.mean([w <= seen for w in all_w]))


@pytest.mark.parametrize(
    "d",
    [
        [1.0, 1.0, -1.0, 2.0, -2.0, 0.5],
        [0.0, 0.0, 3.0, -1.0, 1.0],
        [1.0, 2.0, -INF, 0.5, 0.3],
        [-INF, -INF, 1.0, 2.0, 3.0, 4.0, 5.0],
        [-INF, INF, 1.0, -2.0, NAN],
        [NAN, NAN],
        [0.0],
        [],
    ],
)
def test_ties_zeros_and_lost_sides_over_all_sign_patterns(d):
    assert signed_rank(d) == pytest.approx(by_patterns(d), abs=1e-12)


def test_a_lost_side_has_the_largest_rank_against_it_and_both_say_nothing():
    d = [0.4, 1.0, 2.0, -0.3, 0.9]
    assert signed_rank([*d, -INF]) == signed_rank([*d, -100.0])
    assert signed_rank([*d, INF], 0.2) == signed_rank([*d, 100.0], 0.2)
    assert signed_rank([*d, NAN], 0.2) == signed_rank(d, 0.2)
    assert signed_rank([-x for x in [*d, -INF]]) == signed_rank([*d, -INF])[::-1]


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_a_difference_that_is_the_null_but_for_rounding_is_a_zero(unit):
    d = [(0.1 + 0.2) * unit, 0.5 * unit, 0.8 * unit]
    assert signed_rank(d, 0.3 * unit) == signed_rank([0.0, 0.2 * unit, 0.5 * unit])
    assert signed_rank([0.1 + 0.2, -0.3, 1.0]) == signed_rank([0.3, -0.3, 1.0])


def test_from_how_many_pairs_on_it_can_speak():
    assert speaks_from(0.05) == 6
    assert speaks_from(0.05, against=1) == 12
    assert speaks_from(0.05, favour=1) == 6
    assert best_p(5, 0) == 1 / 32 and best_p(6, 0) == 1 / 64
    assert speaks_from(1e-300) is None
    for against, favour in itertools.product(range(3), range(3)):
        n = speaks_from(0.05, against, favour)
        assert n is not None
        for pairs, can in ((n, True), (n - 1, False)):
            rest = pairs - against - favour
            d = [-INF] * against + [INF] * favour + [1.0 + i for i in range(rest)]
            assert rest < 0 or (signed_rank(d).above <= 0.025) == can


def test_many_pairs_are_near_the_normal_limit():
    d = np.random.default_rng(0).normal(0.1, 1, 300)
    near = wilcoxon(d, alternative="greater", method="approx", correction=True).pvalue
    assert signed_rank(d.tolist()).above == pytest.approx(near, rel=0.02)
