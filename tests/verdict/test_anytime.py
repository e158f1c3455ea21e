"""e-values: against the integrals that define them, as martingales, at any n and t, and under every way of looking."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import nct
from scipy.stats import t as student

from harness.verdict import anytime as at
from harness.verdict import simulate

INF, NAN = math.inf, math.nan


def by_integral(t: float, n: int, g: float) -> float:
    def f(delta: float) -> float:
        prior = 2 * math.exp(-((delta / g) ** 2) / 2) / (g * math.sqrt(2 * math.pi))
        return float(nct.pdf(t, n - 1, delta * math.sqrt(n)) / student.pdf(t, n - 1)) * prior

    return float(quad(f, 0, 10 * g, limit=200)[0])


@pytest.mark.parametrize(("n", "t"), [(2, 1.0), (3, -2.0), (5, 3.0), (8, 0.0), (12, 2.3), (30, -1.0), (30, 4.0)])
@pytest.mark.parametrize("g", [0.5, 1.5])
def test_the_closed_form_is_the_mixture_of_noncentral_t(n, t, g):
    u = t / math.sqrt(t * t + n - 1)
    assert math.exp(at.log_e_t(n, u, g)) == pytest.approx(by_integral(t, n, g), rel=1e-6)


def test_evidence_is_of_the_differences_in_any_unit():
    d = np.array([0.3, 1.2, -0.4, 0.8, 0.9])
    t = d.mean() / d.std(ddof=1) * math.sqrt(5)
    for unit in (1e-250, 1.0, 1e250):
        e = at.evidence((d * unit).tolist())
        assert (e.better, e.worse) == pytest.approx((by_integral(t, 5, 1.5), by_integral(-t, 5, 1.5)), rel=1e-6)
        assert (e.pairs, e.test) == (5, "t")
    assert at.evidence([]) == at.Evidence(1.0, 1.0, 0, "t")
    assert at.evidence([0.0, 0.0]).better == at.evidence([0.0, 0.0]).worse < 1


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000, 10**5, 10**7])
def test_it_is_finite_and_rises_with_t_for_any_n(n):
    u = np.concatenate([[-1, -1 + 1e-16], np.linspace(-1, 1, 401), [1 - 1e-16, 1]])
    log_e = at.log_e_t(n, np.sort(u))
    assert np.isfinite(log_e).all()
    assert np.all(np.diff(log_e) >= -1e-9 * np.abs(log_e[1:]))
    assert log_e[0] < 0 < log_e[-1]


@pytest.mark.parametrize("n", [600, 3000, 30_000])
def test_far_below_zero_both_forms_meet(n):
    """Where F_n is about to vanish as a float, the series takes over without a step."""
    u = -np.linspace(0.05, 0.999, 400)
    log_e = at.log_e_t(n, u)
    second = np.abs(np.diff(log_e, 2))
    assert second.max() < 1e-2 * np.abs(log_e).max()
    tiny = at._log_e_far_below(n, 1 - 0.2**2 * n * 2.25 / (1 + n * 2.25), 1.5)
    assert at.log_e_t(n, -0.2) == pytest.approx(tiny, rel=1e-9)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (0, 3), (5, 5), (3, 8), (40, 60)])
def test_the_sign_tests_is_the_mixture_of_binomials(k, n):
    e = quad(lambda r: 2 * r**k * (1 - r) ** (n - k) * 2**n, 0.5, 1)[0]
    assert math.exp(at.log_e_sign(k, n)) == pytest.approx(e, rel=1e-8)


@pytest.mark.parametrize("n", [1, 5, 40, 5000])
def test_the_sign_tests_is_a_martingale_with_mean_one(n):
    for k in {0, n // 3, n // 2, n}:
        now = at.log_e_sign(k, n)
        after = np.logaddexp(at.log_e_sign(k, n + 1), at.log_e_sign(k + 1, n + 1)) - math.log(2)
        assert after == pytest.approx(now, abs=1e-9)
    assert at.log_e_sign(0, n) == pytest.approx(-math.log(n + 1))


def test_a_lost_side_counts_against_it_and_leaves_the_sign_test():
    e = at.evidence([1.0, 2.0, 0.5, -INF, NAN, 0.0])
    assert (e.test, e.pairs) == ("sign", 6)
    assert e.better == pytest.approx(math.exp(at.log_e_sign(3, 4)))
    assert e.worse == pytest.approx(math.exp(at.log_e_sign(1, 4)))
    assert at.evidence([INF] * 5000).better == INF


def ever(gains: np.ndarray, first: int = 2) -> np.ndarray:
    """By experiment and n, whether the figure has reached ENOUGH at a look after each pair from `first` on."""
    pairs = np.arange(1, gains.shape[1] + 1)
    shown = np.where(np.isfinite(gains), gains, 0)
    total, square = shown.cumsum(axis=1), (shown**2).cumsum(axis=1)
    log_t = at.log_e_t(pairs, total / np.sqrt(np.where(square > 0, pairs * square, 1)))
    favour, against = (gains > 0).cumsum(axis=1), (gains < 0).cumsum(axis=1)
    table = np.array([[at.log_e_sign(min(k, n), n) for k in range(len(pairs) + 1)] for n in range(len(pairs) + 1)])
    lost = (~np.isfinite(gains)).cumsum(axis=1) > 0
    log_e = np.where(lost, table[favour + against, favour], log_t)
    return np.logical_or.accumulate((log_e >= math.log(at.ENOUGH)) & (pairs >= first), axis=1)


def test_many_experiments_at_once_are_those_one_by_one():
    gains = simulate.normal_gains(np.random.default_rng(0), 40, 9, 1.0, 1.0, 0.05)
    assert np.isinf(gains).any()
    for row, found in zip(gains, ever(gains), strict=True):
        e = [at.evidence(row[:n].tolist()).better for n in range(2, 10)]
        assert found[1:].tolist() == [max(e[:n]) >= at.ENOUGH for n in range(1, 9)]


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "baseline"), [(0, 0), (0.15, 0), (0.3, 0), (0.15, 0.15), (0.3, 0.3)])
def test_looking_after_every_pair_is_wrong_in_at_most_one_of_forty(arm, baseline):
    """No effect, 40,000 experiments of up to 30 pairs; the worst part of the arm's runs, or of both sides', diverges.
    From the first lost side on the sign test's figure stands, so that two figures have a chance each: still below."""
    rng, n = np.random.default_rng(3), 40_000
    found = ever(diverging(rng, n, 30, arm, baseline)).mean(axis=0)
    assert found[-1] <= 0.025 + 2 * math.sqrt(0.025 * 0.975 / n)


def diverging(rng: np.random.Generator, experiments: int, pairs: int, arm: float, baseline: float) -> np.ndarray:
    a, b = rng.standard_normal((2, experiments, pairs))
    limits = [np.quantile(x, 1 - share) if share else INF for x, share in ((a, arm), (b, baseline))]
    return simulate.lose(b - a, a > limits[0], b > limits[1])


@pytest.mark.slow
def test_what_it_sees_is_as_recorded():
    """Share that has reached 40 (field facts of the issue: 100,000 sequences; here 40,000)."""
    rng, n = np.random.default_rng(4), 40_000
    for effect, recorded in ((0.0, {12: 0.009, 30: 0.012}), (1.0, {8: 0.27, 12: 0.53, 20: 0.86}), (2.0, {5: 0.37})):
        share = ever(rng.standard_normal((n, 30)) + effect).mean(axis=0)
        for pairs, seen in recorded.items():
            print(f"effect {effect} sd, {pairs} pairs: {share[pairs - 1]:.3f}")
            assert share[pairs - 1] == pytest.approx(seen, abs=0.005 + 4 * math.sqrt(seen * (1 - seen) / n))
