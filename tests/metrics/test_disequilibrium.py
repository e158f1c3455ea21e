"""DI and its companions: closed forms, symmetries, Monte Carlo, error bars, speed."""

import time
from math import comb

import numpy as np
import pytest
from scipy import integrate, stats

from harness.errors import Diverged
from harness.evaluation import scores

DISTRIBUTIONS = {
    "normal": lambda rng, size: rng.normal(0.3, 2.0, size),
    "uniform": lambda rng, size: rng.uniform(-1, 1, size),
    "heavy tails": lambda rng, size: rng.standard_t(3, size),
    "skewed": lambda rng, size: rng.exponential(1.0, size),
    "ties": lambda rng, size: rng.normal(0, 2, size).round(),
}


def expected_largest_normal(n: int) -> float:
    """E[max of n standard normals], by quadrature."""
    return integrate.quad(lambda x: x * n * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1), -10, 10)[0]


def agree(found: scores.Estimate, expected: float) -> None:
    """Within 4 of its own standard errors."""
    assert found.se is not None
    assert found.value == pytest.approx(expected, abs=4 * found.se)


@pytest.mark.parametrize(("size", "n"), [(5, 1), (5, 5), (7, 3), (200, 64), (1000, 64)])
def test_weights_are_the_hypergeometric_ones(size, n):
    exact = np.array([comb(size - 1 - i, n - 1) / comb(size, n) for i in range(size)])
    np.testing.assert_allclose(scores.minimum_weights(size, n), exact, rtol=1e-12)
    assert scores.minimum_weights(size, n, replacement=True).sum() == pytest.approx(1, abs=1e-14)


def test_weights_of_a_large_pool_sum_to_one():
    for size in (50_000, 1_000_000):
        assert scores.minimum_weights(size, 64).sum() == pytest.approx(1, abs=1e-12)


def test_more_than_the_pool_cannot_be_drawn():
    with pytest.raises(ValueError, match="n: 65: must be between 1 and the 64"):
        scores.minimum_weights(64, 65)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_monte_carlo_agrees_with_the_exact_value(name):
    rng = np.random.default_rng(3)
    real, fake = DISTRIBUTIONS[name](rng, 3000) + 0.5, DISTRIBUTIONS[name](rng, 2000)
    paper = scores.sampled_di(real, fake, 64, 200, rng)
    exact = scores.expected_di(real, fake, 64)
    assert paper.se is not None
    assert abs(paper.value - exact) <= 3 * paper.se
    # The exact variance of a repeat predicts the error of the mean over repeats.
    predicted = np.sqrt(scores.di_variance(real, fake, 64) / 200)
    assert paper.se == pytest.approx(predicted, rel=0.25)


def test_every_repeat_is_fresh_where_the_pool_allows():
    rng = np.random.default_rng(0)
    assert len(np.unique(scores.draws(130, 13, 10, rng))) == 130
    redrawn = scores.draws(129, 13, 10, rng)
    assert redrawn.shape == (10, 13)
    assert all(len(np.unique(row)) == 13 for row in redrawn)


def test_gaussian_scores_have_known_values():
    """DI = gap - 2 sigma c, c = E[max of 64 normals] = 2.34; equal distributions: -4.7 sigma, not 0."""
    gap, sigma, n = 1.5, 2.0, 64
    rng = np.random.default_rng(0)
    real, fake = rng.normal(gap, sigma, 40_000), rng.normal(0, sigma, 40_000)
    largest = expected_largest_normal(n)
    assert 2 * largest == pytest.approx(4.69, abs=0.01)
    agree(scores.exact_di(real, fake, n), gap - 2 * sigma * largest)
    agree(scores.auc(real, fake), stats.norm.cdf(gap / sigma / np.sqrt(2)))
    agree(scores.gap(real, fake), gap / sigma)
    assert scores.wasserstein(real, fake) == pytest.approx(gap, abs=0.08)


def test_calibrated_di_of_a_known_mixture():
    """Under permuted labels both pools follow the mixture of the two Gaussians."""
    gap, n = 2.0, 64
    rng = np.random.default_rng(1)
    real, fake = rng.normal(gap, 1, 40_000), rng.normal(0, 1, 40_000)

    def density_of_largest(x: float) -> float:
        cdf = (stats.norm.cdf(x) + stats.norm.cdf(x - gap)) / 2
        return n * (stats.norm.pdf(x) + stats.norm.pdf(x - gap)) / 2 * cdf ** (n - 1)

    largest = integrate.quad(lambda x: x * density_of_largest(x), -8, 12)[0]
    expected = (gap - 2 * expected_largest_normal(n)) - (gap - largest - largest)
    agree(scores.calibrated_di(real, fake, n), expected)


def test_calibrated_di_is_zero_at_equilibrium_and_its_error_is_honest():
    rng = np.random.default_rng(5)
    pools = [(rng.normal(0, 1, 600), rng.normal(0, 1, 600)) for _ in range(200)]
    found = [scores.calibrated_di(real, fake, 64) for real, fake in pools]
    values, errors = np.array([f.value for f in found]), np.array([f.se or np.nan for f in found])
    assert abs(values.mean()) <= 4 * values.std() / np.sqrt(len(values))
    assert np.median(errors) == pytest.approx(values.std(), rel=0.3)
    plain = [scores.exact_di(real, fake, 64) for real, fake in pools]
    assert np.median([p.se or np.nan for p in plain]) == pytest.approx(np.std([p.value for p in plain]), rel=0.3)


def test_scale_and_shift_of_the_logits():
    """DI grows with the logits; the calibrated one, AUC and the gap in standard deviations don't."""
    rng = np.random.default_rng(2)
    real, fake = rng.normal(1, 1, 500), rng.normal(0, 1, 400)
    grown = 3 * real - 7, 3 * fake - 7
    assert scores.expected_di(*grown, 64) == pytest.approx(3 * scores.expected_di(real, fake, 64))
    for measure in (lambda r, f: scores.calibrated_di(r, f, 64), scores.auc, scores.gap):
        assert measure(*grown) == pytest.approx(measure(real, fake))


def test_exchanging_reals_and_fakes():
    rng = np.random.default_rng(4)
    real, fake = rng.normal(1, 1, 300), rng.normal(0, 2, 200)
    assert scores.gap(fake, real).value == pytest.approx(-scores.gap(real, fake).value)
    assert scores.auc(fake, real).value - 0.5 == pytest.approx(0.5 - scores.auc(real, fake).value)
    assert scores.exchangeable_di(fake, real, 64) == pytest.approx(scores.exchangeable_di(real, fake, 64))
    # Exchanged and negated, the game is the same one.
    assert scores.expected_di(-fake, -real, 64) == pytest.approx(scores.expected_di(real, fake, 64))
    assert scores.calibrated_di(-fake, -real, 64) == pytest.approx(scores.calibrated_di(real, fake, 64))


def test_exchangeable_di_is_the_mean_over_permuted_labels():
    rng = np.random.default_rng(6)
    union = np.concatenate([rng.normal(2, 1, 90), rng.normal(0, 1, 70)])
    permuted = [rng.permutation(union) for _ in range(2000)]
    values = [scores.expected_di(p[:90], p[90:], 16) for p in permuted]
    exact = scores.exchangeable_di(union[:90], union[90:], 16)
    assert np.mean(values) == pytest.approx(exact, abs=4 * np.std(values) / np.sqrt(len(values)))


def test_auc_counts_ties_half():
    assert scores.auc(np.array([0.0, 1, 1, 2]), np.array([1.0, 1])).value == pytest.approx((0 + 0.5 + 0.5 + 1) / 4)


def test_leaving_out_each_score_in_turn():
    x = np.random.default_rng(7).normal(size=30)
    direct = [scores.expected_minimum(np.delete(x, i), 8)[0] for i in range(30)]
    np.testing.assert_allclose(scores._without_each(x, 8), direct, rtol=1e-12)
    other = np.random.default_rng(8).normal(size=20)
    spreads = [scores.pooled_std(np.delete(x, i), other) for i in range(30)]
    np.testing.assert_allclose(scores._std_without_each(x, other), spreads, rtol=1e-12)


def test_fifty_thousand_scores_in_a_fifth_of_a_second():
    real, fake = np.random.default_rng(9).normal(size=(2, 50_000))
    times = []
    for _ in range(3):
        start = time.process_time()
        scores.exact_di(real, fake, 64)
        times.append(time.process_time() - start)
    assert min(times) <= 0.2


def test_a_score_that_is_not_finite_ends_the_trial():
    with pytest.raises(Diverged, match="scores/fake: 1 of 3"):
        scores.score_summary(np.zeros(3), np.array([0, np.nan, 1]))
    with pytest.raises(Diverged, match="same score"):
        scores.pooled_std(np.ones(5), np.ones(5))


def test_summary_and_quick_di():
    rng = np.random.default_rng(10)
    real, fake = rng.normal(1, 1, 40), rng.normal(0, 1, 80)
    summary = scores.score_summary(real, fake)
    assert summary["real_min"] == real.min()
    assert summary["fake_max"] == fake.max()
    assert summary["real_q50"] == pytest.approx(np.median(real))
    assert summary["fake_mean"] == pytest.approx(fake.mean())
    quick = scores.quick_di(real, fake)
    assert quick["di"] == pytest.approx(scores.expected_di(real, fake, 40))
    assert set(quick) == {"di", "di_calibrated", "auc", "gap"}
