"""From pairs and plan to a word: rules, looks, lost sides; one experiment at a time and many at once."""

import math

import numpy as np
import pytest

from harness.report import statistics
from harness.verdict import simulate, words
from harness.verdict.words import PAPER, Plan, Question, read, sentence

INF, NAN = math.inf, math.nan
THREE = Plan((4, 8, 12))


def around(mean: float, half: float, plan: Plan, look: int = 0) -> list[float]:
    """The pairs of that look, with just that mean and half interval."""
    n = plan.looks[look]
    d = np.random.default_rng(7).standard_normal(n)
    d = (d - d.mean()) / d.std(ddof=1)
    return (mean + d * half * math.sqrt(n) / plan.boundaries.t[look]).tolist()


OWN = [
    (-2.0, 1.0, "worse"),
    (2.0, 1.0, "better"),
    (1.0, 0.5, "better"),
    (0.5, 0.2, "better, by less than the margin"),
    (0.2, 0.5, "no gain worth having"),
    (-0.2, 0.5, "no gain worth having"),
    (0.0, 2.0, "open"),
    (0.9, 1.0, "open"),
]
BESIDE_THE_PAPER = [
    (1.0, 0.5, "replicated"),
    (2.0, 0.5, "direction only"),
    (0.3, 0.2, "direction only"),
    (0.0, 0.4, "contradicted"),
    (-3.0, 1.0, "contradicted"),
    (0.5, 0.6, "inconclusive"),
]


@pytest.mark.parametrize("plan", [Plan((5,)), Plan((12,), "pocock"), Plan((2,))])
@pytest.mark.parametrize(
    ("mean", "half", "word", "question"),
    [(*row, Question(1.0)) for row in OWN] + [(*row, PAPER) for row in BESIDE_THE_PAPER],
)
def test_the_first_word_that_holds(plan, mean, half, word, question):
    r = read(around(mean, half, plan), plan, question)
    assert (r.word, r.pairs, r.next, r.test, r.settled) == (word, plan.looks[0], None, "t", True)
    assert r.mean == pytest.approx(mean, abs=1e-9)
    assert r.interval == pytest.approx((mean - half, mean + half))
    assert r.p is not None and (r.p < 0.05) == (r.interval[0] > 0 or r.interval[1] < 0)


def test_the_papers_words_are_those_of_the_report():
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(2, 13))
        d = (rng.normal(0, 3) + rng.normal(0, rng.uniform(0.1, 3), n)).tolist()
        old = statistics.verdict(d, -2.0)
        new = read([x / -2.0 for x in d], Plan((n,)), PAPER)
        assert (new.word, new.interval) == (old.word, pytest.approx(old.share, rel=1e-9))


def test_looks_are_taken_in_the_plans_order_and_the_first_that_settles_stands():
    clear, unclear = around(2.0, 0.5, THREE), around(0.0, 9.0, THREE)
    r = read(unclear, THREE, Question(1.0))
    assert (r.word, r.pairs, r.next, r.settled) == ("between looks", 4, 8, False)
    assert sentence(r) == "between looks: next at 8 pairs"
    assert r.interval == pytest.approx((-9.0, 9.0))
    # Pairs beyond a look wait unseen, whatever they are; and a hole before it is waited for.
    assert read([*unclear, 50.0, -INF, None], THREE, Question(1.0)) == r
    assert read([*unclear, None, 1.0, 1.0, 1.0, 1.0], THREE, Question(1.0)) == r
    nothing = read([1.0, None, 2.0, 1.5, 1.6], THREE, Question(1.0))
    assert (sentence(nothing), nothing.pairs, nothing.p) == ("between looks: next at 4 pairs", None, None)
    stopped = read(clear, THREE, Question(1.0))
    assert (stopped.word, stopped.pairs, stopped.settled) == ("better", 4, True)
    assert read([*clear, *[-50.0] * 8], THREE, Question(1.0)) == stopped
    last = read(around(0.0, 5.0, THREE, 2), THREE, Question(1.0))
    assert (last.word, last.pairs, last.settled) == ("open", 12, True)


@pytest.mark.parametrize(
    ("gains", "word", "beside"),
    [
        ([1.0, 1.1, 1.2, 0.9, 0.8, INF], "better", "replicated"),
        ([2.0, 2.1, 2.2, 1.9, 1.8, INF], "better", "direction only"),
        ([-1.0, -1.1, -1.2, -0.9, -0.8, -INF], "worse", "contradicted"),
        ([0.1, 0.2, 0.3, 0.4, 0.15, 0.05, 0.25, NAN], "better, by less than the margin", "direction only"),
        ([0.1, 0.2, -0.3, 0.4, -0.15, 0.05, -0.25, NAN], "no gain worth having", "contradicted"),
        ([1.0, 2.0, 3.0, 4.0, 5.0, -INF], "open", "inconclusive"),
        ([NAN] * 6, "open", "inconclusive"),
    ],
)
def test_a_lost_side_leaves_the_word_to_the_signed_rank_test(gains, word, beside):
    r = read(gains, Plan((len(gains),)), Question(0.5))
    assert (r.word, r.test, r.mean, r.interval) == (word, "signed rank", None, None)
    assert read(gains, Plan((len(gains),)), PAPER).word == beside


def test_survivors_praise_nothing():
    """An arm that diverges just where it would have been bad."""
    true = [1.0, 0.9, 1.1, 1.2, 0.8, -3.0, 1.0, -4.0, 0.95, -3.5, 1.05, -5.0]
    shown = [-INF if g < 0 else g for g in true]
    survivors = [g for g in shown if math.isfinite(g)]
    assert read(survivors, Plan((len(survivors),)), Question(0.5)).word == "better"
    assert read(shown, Plan((12,)), Question(0.5)).word == "open"
    assert read(true, Plan((12,)), Question(0.5)).word == "open"


def test_where_it_cannot_be_reached_it_says_from_how_many_pairs_on():
    def speaks(gains: list[float], looks: tuple[int, ...]) -> int | None:
        return read(gains, Plan(looks), Question(5.0)).speaks_from

    four = [1.0, 9.0, 8.0, -INF, 7.0]
    assert speaks(four, (5,)) == 12
    assert sentence(read(four, Plan((5,)), Question(5.0))) == "open (could see a gain from 12 pairs on)"
    assert speaks([*four[:3], INF, 6.0], (5,)) == 6
    assert speaks([*four, NAN], (6,)) == 13
    assert speaks([*four, *[float(i) for i in range(1, 8)]], (12,)) is None
    # At 4 of 4, 8, 12 no signed-rank test can pass (p = .0005); at 12 it can.
    assert speaks([9.0, -8.0, -INF, 7.0], THREE.looks) == 12


def test_a_distances_gain_is_the_log_of_its_ratio():
    assert words.gain_of_distance(9.5, 10.0) == pytest.approx(words.margin_of_distance(0.05))
    assert words.change_of_distance(words.gain_of_distance(9.5, 10.0)) == pytest.approx(-0.05)
    assert words.gain_of_distance(NAN, 10.0) == -INF and words.gain_of_distance(10.0, INF) == INF
    assert math.isnan(words.gain_of_distance(NAN, INF))
    with pytest.raises(ValueError, match="above 0"):
        words.gain_of_distance(-0.1, 1.0)
    for share in (0.0, 1.0, NAN):
        with pytest.raises(ValueError, match="margin"):
            words.margin_of_distance(share)
    with pytest.raises(ValueError, match="margin: 0"):
        read([1.0], Plan((2,)), Question(0.0))
    assert sentence(read(around(0.5, 0.2, THREE), THREE, Question(1.0)), "5 %") == "better, by less than 5 %"


def test_no_spread_and_no_difference():
    assert read([0.0] * 4, Plan((4,)), Question(1.0)).word == "no gain worth having"
    assert read([0.0] * 4, Plan((4,)), Question(1.0)).p == 1
    same = read([2.0] * 4, THREE, Question(1.0))
    assert (same.word, same.interval, same.p) == ("better", (2.0, 2.0), 0)


@pytest.mark.parametrize("diverging", [0.0, 0.1])
def test_when_a_run_ends_moves_no_word(diverging):
    """Good runs end first, bad ones last, or the other way: what is said on the way is either waiting or final."""
    rng = np.random.default_rng(5)
    for gains in simulate.normal_gains(rng, 40, 12, 0.8, 1.0, diverging):
        final = read(gains.tolist(), THREE, Question(0.5))
        for order in (np.argsort(gains), np.argsort(-gains), rng.permutation(12)):
            ended: list[float | None] = [None] * 12
            said = []
            for i in order:
                ended[i] = float(gains[i])
                said.append(read(ended, THREE, Question(0.5)))
            assert said[-1] == final
            settled = [r.settled for r in said]
            assert settled == sorted(settled)
            assert all(r == final for r in said if r.settled)
            assert all(r.word == "between looks" for r in said if not r.settled)


@pytest.mark.parametrize("question", [Question(0.7), PAPER])
@pytest.mark.parametrize("plan", [THREE, Plan((3, 5, 8, 9), "pocock"), Plan((6,))])
@pytest.mark.parametrize("diverging", [0.0, 0.1])
def test_many_experiments_at_once_are_those_one_by_one(plan, question, diverging):
    rng = np.random.default_rng(11)
    effect = rng.choice([-1.0, 0.0, 0.3, 1.0, 2.0], (200, 1))
    gains = simulate.normal_gains(rng, 200, plan.looks[-1], 0, 0.8, diverging) + effect
    assert diverging == 0 or (np.isinf(gains).any() and np.isnan(gains).any())
    word, pairs = simulate.words(gains, plan, question)
    one_by_one = [read(row.tolist(), plan, question) for row in gains]
    assert word.tolist() == [r.word for r in one_by_one]
    assert pairs.tolist() == [r.pairs for r in one_by_one]
    assert len(set(word.tolist())) > 2
