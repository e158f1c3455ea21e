"""Statistics against scipy, hand-computed cases and simulation."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from harness.report import statistics as st

VALUES = [3.1, 2.4, 4.0, 3.3, 2.9]


@pytest.mark.parametrize("n", [2, 3, 5])
def test_interval_and_p_match_scipy(n):
    s = st.summary(VALUES[:n])
    low, high = stats.t.interval(0.95, n - 1, loc=np.mean(VALUES[:n]), scale=stats.sem(VALUES[:n]))
    assert (s.low, s.high) == pytest.approx((low, high), rel=1e-12)
    assert st.t_test_p(s) == pytest.approx(stats.ttest_1samp(VALUES[:n], 0).pvalue, rel=1e-9)


def test_interval_by_hand():
    # Values 1, 2, 3: mean 2, sd 1, t(2) at 97.5 % = 4.302653, half width 4.302653 / sqrt(3).
    s = st.summary([1.0, 2.0, 3.0])
    assert (s.mean, s.sd) == (2.0, 1.0)
    assert s.half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)


def test_one_value_has_no_interval_and_none_is_refused():
    assert st.summary([4.0]) == st.Summary(1, 4.0, None, None, None)
    with pytest.raises(ValueError, match="at least one"):
        st.summary([])
    with pytest.raises(ValueError, match="finite"):
        st.summary([1.0, math.nan])


def test_pairs_are_matched_by_seed_not_by_order():
    p = st.paired({2: 5.0, 0: 1.0, 7: 9.0}, {0: 2.0, 1: 100.0, 2: 3.0})
    assert p is not None
    assert p.seeds == (0, 2)
    assert p.differences == (-1.0, 2.0)
    assert st.paired({0: 1.0}, {1: 1.0}) is None


def test_pairing_removes_what_seeds_share():
    rng = np.random.default_rng(3)
    shared = rng.normal(0, 10, 6)
    noise = rng.normal(0, 0.1, 6)
    p = st.paired(dict(enumerate(shared - 1 + noise)), dict(enumerate(shared)))
    assert p is not None
    assert p.p_t == pytest.approx(stats.ttest_rel(shared - 1 + noise, shared).pvalue, rel=1e-6)
    assert p.p_t is not None
    assert p.p_t < 0.01 < stats.ttest_ind(shared - 1 + noise, shared).pvalue


@pytest.mark.parametrize("d", [[1.0, 2.0, 0.5], [-1.0, 2.0, 0.5, 0.7], [0.3, -0.3, 1.2, -2.0, 0.8, 0.1, 0.4]])
def test_sign_flip_is_the_exact_permutation_test(d):
    exact = stats.permutation_test((d, [0.0] * len(d)), lambda a, b: np.mean(a - b), permutation_type="samples")
    assert st.sign_flip_p(d) == pytest.approx(exact.pvalue, abs=1e-12)


def test_sign_flip_floor_ties_and_many_pairs():
    assert st.sign_flip_p([1.0, 1.1, 0.9]) == 2 / 8  # only the observed signs and their mirror are as extreme
    assert st.sign_flip_p([0.1] * 10) == 2 / 1024  # equal sums that round differently are still ties
    assert st.sign_flip_p([0.0, 0.0]) == 1.0
    assert st.sign_flip_p([1.0]) is None
    d = np.random.default_rng(0).normal(0.35, 1, 24)
    p = st.sign_flip_p(list(d))
    assert p == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.01)


def test_effect_size_by_hand():
    # n = 3: J(2) = gamma(1) / gamma(1/2) = 1 / sqrt(pi). n = 5: J(4) = gamma(2) / (sqrt(2) gamma(1.5)).
    assert st.effect_size(st.summary([1.0, 2.0, 3.0])) == pytest.approx(2 / math.sqrt(math.pi))
    s = st.summary(VALUES)
    assert s.sd is not None
    assert st.effect_size(s) == pytest.approx(s.mean / s.sd / (math.sqrt(2) * math.sqrt(math.pi) / 2))
    assert st.effect_size(st.summary([1.0, 2.0])) is None
    assert st.effect_size(st.summary([1.0, 1.0, 1.0])) is None


def test_holm_by_hand():
    assert st.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert st.holm([0.5, 0.9]) == [1.0, 1.0]
    assert st.holm([]) == []


def test_seeds_for_is_the_smallest():
    n = st.seeds_for(sd=1.0, precision=0.5)
    assert n == 18  # t(17) / sqrt(18) = 0.4973, t(16) / sqrt(17) = 0.5142
    assert st.half_width(1.0, n) <= 0.5 < st.half_width(1.0, n - 1)
    assert st.seeds_for(1.0, 1e-6) is None
    assert st.seeds_for(0.0, 0.1) == 2


@pytest.mark.parametrize(
    ("differences", "paper", "word"),
    [
        ([-1.5, -1.6, -1.55], -1.55, "replicated"),
        ([-0.7, -0.75, -0.72], -1.55, "direction only"),
        ([-3.0, -3.1, -3.05], -1.55, "direction only"),
        ([0.7, 0.75, 0.72], -1.55, "contradicted"),
        ([0.02, -0.05, 0.03], -1.55, "contradicted"),  # a precise nothing
        ([-0.2, -2.0, 0.4], -1.55, "inconclusive"),
        ([-1.5], -1.55, "inconclusive"),
        ([], -1.55, "not run"),
        ([0.3, 0.28, 0.26], 0.27, "replicated"),  # the paper's own failures replicate too
    ],
)
def test_verdicts(differences, paper, word):
    assert st.verdict(differences, paper).word == word


def test_verdict_is_the_same_in_any_unit():
    d = [-1.2, -0.3, -2.2, -1.0]
    a, b = st.verdict(d, -1.5), st.verdict([100 * x for x in d], -150.0)
    assert a.word == b.word
    assert a.share == pytest.approx(b.share)
    assert a.more_seeds == b.more_seeds


def test_more_seeds_settle_it():
    d = [-0.9, -2.4, 0.1]
    v = st.verdict(d, -1.55)
    assert v.word == "inconclusive"
    assert v.more_seeds is not None
    s = st.summary([x / -1.55 for x in d])
    assert s.sd is not None
    for extra, settled in [(v.more_seeds, True), (v.more_seeds - 1, False)]:
        half = float(st.half_width(s.sd, s.n + extra))
        assert (st.judge(s.mean - half, s.mean + half) != "inconclusive") == settled
    assert st.verdict([-1.0], -1.55).more_seeds is None  # one pair has no sd to extrapolate


def test_a_paper_without_a_difference_has_no_verdict():
    with pytest.raises(ValueError, match="no direction"):
        st.verdict([1.0, 2.0], 0.0)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_simulated_verdicts_hold_their_rates(n):
    """No effect: `replicated` at most 5 % (nominal 2.5 %). The paper's effect: `contradicted` at most 5 %."""
    rng, runs = np.random.default_rng(n), 1500
    for sd in (0.3, 1.0, 3.0):
        nothing = [st.verdict(list(d), -1.0).word for d in rng.normal(0.0, sd, (runs, n))]
        assert nothing.count("replicated") <= 0.05 * runs
        assert nothing.count("replicated") + nothing.count("direction only") <= 0.05 * runs
        same = [st.verdict(list(d), -1.0).word for d in rng.normal(-1.0, sd, (runs, n))]
        assert same.count("contradicted") <= 0.05 * runs


def test_simulated_replication_is_found_when_it_is_there():
    rng = np.random.default_rng(0)
    words = [st.verdict(list(d), -1.0).word for d in rng.normal(-1.0, 0.3, (1000, 5))]
    assert words.count("replicated") > 0.9 * 1000
    assert words.count("direction only") < 0.08 * 1000  # the interval misses 1 about 5 % of the time


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5])
def test_simulated_rate_of_false_replication_precisely(n):
    """40,000 tables with no effect: the rate stays below 2.5 % within its own sampling error."""
    rng, runs = np.random.default_rng(7), 40_000
    for sd in (0.5, 2.0):
        hits = sum(st.verdict(list(d), -1.0).word == "replicated" for d in rng.normal(0.0, sd, (runs, n)))
        assert hits / runs <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / runs)


def test_the_docs_say_how_many_patterns_are_drawn():
    """And from how many pairs on: docs/verdicts.md is what a stranger computes by."""
    text = (Path(__file__).parents[2] / "docs" / "verdicts.md").read_text()
    power = str(st.DRAWS.bit_length() - 1).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    assert 1 << (st.DRAWS.bit_length() - 1) == st.DRAWS
    assert f"Above {st.EXACT_PAIRS} pairs 2{power} patterns are drawn" in text


def test_a_lost_pair_leaves_the_verdict_open():
    replicated = [-6.8, -6.7, -6.9, -6.75]
    assert st.verdict(replicated, -6.8).word == "replicated"
    assert st.verdict(replicated, -6.8, lost=1) == st.Verdict("inconclusive")
    assert st.verdict([], -6.8, lost=4).word == "inconclusive" and st.verdict([], -6.8).word == "not run"
