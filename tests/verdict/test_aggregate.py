"""Aggregates against recorded values, by hand, and by what a bootstrap that keeps pairs is for."""

import math

import numpy as np
import pytest

from harness.verdict import aggregate as ag
from tests.golden._golden import Case, cases

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("case", cases("statistics_aggregate*"))
def test_point_values_are_the_recorded_ones(case: Case):
    x, y, taus = (case[f"in/{k}"].numpy() for k in ("x", "y", "taus"))
    gamma = case.config["gamma"]
    found = {
        "iqm_x": ag.interquartile_mean(x),
        "iqm_y": ag.interquartile_mean(y),
        "optimality_gap_x": ag.optimality_gap(x, gamma),
        "optimality_gap_y": ag.optimality_gap(y, gamma),
        "probability_of_improvement": ag.probability_of_improvement(x, y),
        "probability_of_improvement_per_task": ag.improvements(x, y),
        "probability_identical": ag.probability_of_improvement(x, x),
        "profile_x": ag.performance_profile(x, taus),
        "profile_y": ag.performance_profile(y, taus),
    }
    for key, value in found.items():
        assert value == pytest.approx(case[f"out/{key}"].numpy(), abs=1e-12), key


@pytest.mark.parametrize("case", cases("statistics_aggregate*"))
def test_a_bootstrap_of_rows_is_the_recorded_one(case: Case):
    x, y, rows = (case[f"in/{k}"].numpy() for k in ("x", "y", "bootstrap_rows"))
    one = ag.bootstrap(ag.interquartile_mean, [x], rows)
    assert one == pytest.approx(case["out/rows_iqm_replicates"].numpy(), abs=1e-12)
    assert ag.interval(one) == pytest.approx(case["out/rows_iqm_ci95"].tolist(), abs=1e-12)
    if "out/paired_iqm_difference_replicates" in case:
        both = ag.bootstrap(lambda a, b: ag.interquartile_mean(a) - ag.interquartile_mean(b), [x, y], rows)
        assert both == pytest.approx(case["out/paired_iqm_difference_replicates"].numpy(), abs=1e-12)
        assert ag.interval(both) == pytest.approx(case["out/paired_iqm_difference_ci95"].tolist(), abs=1e-12)


def difference(a: ag.Floats, b: ag.Floats) -> float:
    return ag.interquartile_mean(a) - ag.interquartile_mean(b)


def test_the_pairing_is_kept():
    """What seeds share leaves the interval of the difference, and stays if the arms are drawn apart."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 5, (10, 1))
    arm, baseline = (shared + effect + rng.normal(0, 0.1, (10, 3)) for effect in (1.0, 0.0))
    rows = ag.rows_drawn(10, 400)
    low, high = ag.interval(ag.bootstrap(difference, [arm, baseline], rows))
    assert 0.5 < low < 1 < high < 1.5
    apart = ag.bootstrap(ag.interquartile_mean, [arm], rows) - ag.bootstrap(
        ag.interquartile_mean, [baseline], ag.rows_drawn(10, 400, seed=1)
    )
    assert np.ptp(ag.interval(apart)) > 5 * (high - low)


def test_rows_are_the_same_every_time_and_all_are_drawn():
    assert np.array_equal(ag.rows_drawn(5, 100), ag.rows_drawn(5, 100))
    assert set(ag.rows_drawn(5, 100).ravel().tolist()) == set(range(5))


def test_distances_become_scores_by_the_baseline():
    baseline = np.array([[10.0, 200.0], [30.0, 200.0]])
    scores = ag.normalised(np.array([[10.0, 400.0], [NAN, INF]]), baseline)
    assert scores.tolist() == [[2.0, 0.5], [0.0, 0.0]]
    kept = ag.normalised(np.array([[10.0, 100.0]]), np.array([[10.0, 100.0], [NAN, 100.0]]))
    assert kept.tolist() == [[1.0, 1.0]]


def test_images_to_target_by_hand():
    curve = [(100.0, 50.0), (200.0, NAN), (300.0, 20.0), (400.0, 25.0)]
    assert [ag.images_to_target(curve, t) for t in (60, 50, 49.9, 20, 19)] == [100, 100, 300, 300, INF]
    assert ag.images_to_target([], 10) == ag.images_to_target([(1.0, NAN)], INF) == INF


def curves(rng: np.random.Generator, speed: float, runs: int = 9) -> list[ag.Curve]:
    """Distances that fall as 1 / (speed kimg), last at 1,000 kimg."""
    return [[(k, 1e4 / (speed * k) * rng.uniform(0.97, 1.03)) for k in range(50, 1001, 50)] for _ in range(runs)]


def test_an_arm_twice_as_fast_needs_half_the_images():
    rng = np.random.default_rng(0)
    baseline, fast, slow = (curves(rng, s) for s in (1.0, 2.0, 0.5))
    assert ag.images_to_baseline(fast, baseline) == pytest.approx(500, abs=50)
    assert ag.images_to_baseline(baseline, baseline) == pytest.approx(1000, abs=50)
    assert ag.images_to_baseline(slow, baseline) == INF
    rows = ag.rows_drawn(9, 200)
    low, high = ag.interval(ag.images_to_baseline_replicates(fast, baseline, rows))
    assert 400 <= low <= ag.images_to_baseline(fast, baseline) <= high <= 600
    assert ag.interval(ag.images_to_baseline_replicates(slow, baseline, rows)) == (INF, INF)
    # Where some replicates never reach it, so says the upper end.
    mixed = [*fast[:5], *slow[5:]]
    low, high = ag.interval(ag.images_to_baseline_replicates(mixed, baseline, rows))
    assert low < 600 and high == INF


def test_a_baseline_that_diverged_is_reached_at_once():
    arm = curves(np.random.default_rng(0), 1.0)
    lost: list[ag.Curve] = [[(50.0, 100.0), (100.0, NAN)]] * 9
    assert ag.images_to_baseline(arm, lost) == 50
    assert ag.images_to_baseline(lost, arm) == INF
