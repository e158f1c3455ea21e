"""How often the words are wrong, how often they come, and what they cost: 40,000 experiments a rule."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.verdict import simulate
from harness.verdict.words import PAPER, Plan, Question

N = 40_000
ALLOWED = 0.025 + 2 * math.sqrt(0.025 * 0.975 / N)
PLANS = [
    Plan((4, 8, 12)),
    Plan((4, 8, 12), "pocock"),
    Plan((3, 5, 8)),
    Plan((5, 10, 15), "pocock"),
    Plan(tuple(range(3, 13))),
    Plan((5,)),
    Plan((6,)),
    Plan((12,)),
]
LOST = [(0.0, 0.0), (0.15, 0.0), (0.3, 0.0), (0.15, 0.15), (0.3, 0.3)]


def name(plan: Plan) -> str:
    return f"{plan.shape}-{'-'.join(map(str, plan.looks))}"


def gains(plan: Plan, effect: float, arm: float = 0.0, baseline: float = 0.0, seed: int = 1) -> NDArray[np.float64]:
    """sd 1; the worst part of the arm's and of the baseline's runs diverges."""
    a, b = np.random.default_rng(seed).standard_normal((2, N, plan.looks[-1])) / math.sqrt(2)
    limit = [np.quantile(x, 1 - share) if share else math.inf for x, share in ((a, arm), (b, baseline))]
    return simulate.lose(effect + b - a, a > limit[0], b > limit[1])


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS, ids=name)
@pytest.mark.parametrize(("arm", "baseline"), LOST)
def test_no_effect_no_praise(plan, arm, baseline):
    """A positive word in at most 2.5 % + 2 s.e., for a question of one's own and beside the paper, also where the arm
    diverges just where it would have been bad."""
    shown = gains(plan, 0.0, arm, baseline)
    for question in (Question(1.0), Question(0.2), PAPER):
        found = simulate.outcome(shown, plan, question)
        assert found.positive <= ALLOWED
        if arm == baseline and not question.paper:
            assert found.words.get("worse", 0) <= ALLOWED


@pytest.mark.parametrize("plan", [Plan((5,)), Plan((12,))], ids=name)
def test_no_effect_no_praise_in_brief(plan):
    few = gains(plan, 0.0, 0.15)[:4000]
    assert simulate.outcome(few, plan, Question(1.0)).positive <= 0.025 + 3 * math.sqrt(0.025 / 4000)


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS, ids=name)
@pytest.mark.parametrize("lost", [0.0, 0.15, 0.3])
def test_a_gain_worth_having_is_seldom_denied(plan, lost):
    """`no gain worth having` and `contradicted` in at most 2.5 % + 2 s.e. at the margin, or at the paper's effect."""
    for margin in (0.5, 1.0):
        assert simulate.outcome(gains(plan, margin, lost, lost), plan, Question(margin)).futile <= ALLOWED
    for sd in (0.5, 1.0, 2.0):
        shown = gains(plan, 1 / sd, lost, lost) * sd
        assert simulate.outcome(shown, plan, PAPER).futile <= ALLOWED


@pytest.mark.slow
def test_with_no_effect_the_search_ends():
    """By 12 pairs in at least 80 %, at sd = margin, and for the paper's words at half the paper's difference."""
    plan = Plan((4, 8, 12))
    assert simulate.foreseen(plan, Question(1.0), 0.0, 1.0).futile >= 0.8
    assert simulate.foreseen(plan, PAPER, 0.0, 0.5).futile >= 0.8


@pytest.mark.slow
def test_power_and_pairs_of_the_recommended_plan():
    """4, 8, 12, O'Brien-Fleming, futility on: at the paper's effect >= 80 % by 12 pairs at sd 1, mean pairs <= 10.5 (sd
    1) and 8.2 (sd 0.5); divergence of both arms' worst 5 and 15 % takes it to 67 and 40 %."""
    plan = Plan((4, 8, 12))
    found = {sd: simulate.foreseen(plan, PAPER, 1.0, sd) for sd in (0.5, 1.0)}
    assert found[1.0].positive >= 0.8 and found[1.0].pairs <= 10.5 and found[0.5].pairs <= 8.2
    for lost, power in ((0.05, 0.67), (0.15, 0.40)):
        assert simulate.foreseen(plan, PAPER, 1.0, 1.0, lost).positive == pytest.approx(power, abs=0.015)
    for shape in ("obrien_fleming", "pocock"):
        for lost in (0.0, 0.05, 0.15):
            o = simulate.foreseen(plan._replace(shape=shape), PAPER, 1.0, 1.0, lost)
            print(f"{shape}, {lost:.0%} of both sides lost: power {o.positive:.3f}, {o.pairs:.1f} pairs on average")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t3", "skewed", "skewed the other way"])
def test_differences_that_are_not_normal_are_reported(kind):
    """No limit is promised; t with 3 freedoms is cautious, skewness one-sided."""
    rng = np.random.default_rng(2)
    for plan in (Plan((4, 8, 12)), Plan((4, 8, 12), "pocock"), Plan((5,)), Plan((12,))):
        shape = (N, plan.looks[-1])
        d = rng.standard_t(3, shape) if kind == "t3" else rng.exponential(size=shape) - 1
        o = simulate.outcome(-d if kind.endswith("way") else d, plan, Question(1.0))
        print(f"{kind}, {name(plan)}: positive {o.positive:.4f}, worse {o.words.get('worse', 0):.4f}")
        assert 0 < o.positive + o.words.get("worse", 0) < 0.2


def test_the_effect_that_a_plan_sees_is_the_one_it_has_that_power_for():
    for plan, sd in ((Plan((12,)), 1.0), (Plan((5,)), 3.0)):
        effect = simulate.effect_seen(plan, sd, 0.8, experiments=10_000)
        found = simulate.foreseen(plan, Question(1e-9), effect, sd, experiments=10_000)
        assert found.positive == pytest.approx(0.8, abs=0.02)
    assert simulate.effect_seen(Plan((12,)), 1.0, experiments=10_000) == pytest.approx(0.89, abs=0.03)
