"""Boundaries of planned looks: recorded critical values, normal theory, closed forms, what p and interval promise."""

import json
import math
import time

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr
from scipy.stats import multivariate_normal
from scipy.stats import t as student

from harness.verdict import sequential as sq
from tests.golden._golden import Case, cases

SHAPES: dict[str, sq.Shape] = {"obf": "obrien_fleming", "pocock": "pocock"}


def designs(case: Case) -> list[tuple[str, tuple[str, str]]]:
    found = [k.split("/")[1] for k in sorted(case.keys) if k.startswith("in/")]
    return [(f"{d}-{s}", (d, s)) for d in found for s in SHAPES]


def normals(case: Case) -> list[tuple[str, str]]:
    found = sorted(k.removesuffix("/constant") for k in case.keys if k.startswith("out/normal/") and "constant" in k)
    return [(k.removeprefix("out/normal/").replace("/", "-"), k) for k in found]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "design"), cases("statistics_sequential*", designs))
def test_boundaries_are_the_recorded_ones(case: Case, design: tuple[str, str]):
    """Constant, nominal p and critical t, within four standard errors of both simulations together."""
    name, shape = design
    key = f"out/paired_t/{name}/{shape}"
    b = sq.boundaries(tuple(case[f"in/{name}/looks"].tolist()), SHAPES[shape], case.config["alpha"])
    for ours, error, what in (
        ([b.constant], [b.constant_error], "constant"),
        (b.p, b.p_error, "p"),
        (b.t, b.t_error, "t"),
    ):
        recorded, theirs = (np.atleast_1d(case[f"{key}/{what}{end}"].numpy()) for end in ("", "_se"))
        assert np.all(np.abs(np.array(ours) - recorded) <= 4 * np.hypot(error, theirs)), what
    slack = 4 * math.hypot(b.constant_error, case[f"{key}/constant_se"].item())
    assert 0 < b.constant_error < 0.002 and slack < 0.008


@pytest.mark.slow
@pytest.mark.parametrize(("case", "design"), cases("statistics_sequential*", designs))
def test_first_rejections_are_the_recorded_ones(case: Case, design: tuple[str, str]):
    """With our boundaries, at every recorded effect; 0 sums to alpha within 0.0005."""
    name, shape = design
    b = sq.boundaries(tuple(case[f"in/{name}/looks"].tolist()), SHAPES[shape])
    for delta in case.config["deltas"]:
        passed = np.abs(sq.t_of_looks(np.random.default_rng(5), b.looks, 1 << 20, delta)) > b.t
        first = (passed & (passed.cumsum(axis=1) == 1)).mean(axis=0)
        key = f"out/paired_t/{name}/{shape}/first_rejection_delta_{delta}"
        error = np.sqrt(first * (1 - first) / (1 << 20) + case[f"{key}_se"].numpy() ** 2)
        # A boundary within its own error moves a look's share by at most about its nominal p's relative error.
        moved = 3 * first * np.array(b.p_error) / np.array(b.p)
        assert np.all(np.abs(first - case[key].numpy()) <= 4 * error + moved)
        if delta == 0:
            assert first.sum() == pytest.approx(0.05, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("looks", [(3, 4), (6, 7, 20), (10, 40), tuple(range(3, 13))])
@pytest.mark.parametrize("shape", SHAPES.values())
def test_any_design_rejects_at_its_level(looks, shape):
    """Fresh sequences, with the boundaries of designs that nobody recorded."""
    b, n = sq.boundaries(looks, shape), 1 << 19
    passed = (np.abs(sq.t_of_looks(np.random.default_rng(9), looks, n)) > b.t).any(axis=1).mean()
    ours = (b.overall(b.constant - b.constant_error) - b.overall(b.constant + b.constant_error)) / 2
    assert abs(passed - 0.05) <= 4 * math.hypot(ours, math.sqrt(0.05 * 0.95 / n))


@pytest.mark.parametrize("shape", SHAPES.values())
def test_the_tabulated_overlap_is_that_of_its_sequences(shape):
    """Mean and standard error of max(N - 1, 0), counted one constant at a time."""
    looks = (3, 5, 6, 9)
    overlap, error = sq._simulated(looks, shape)
    rng = np.random.default_rng([sq.SEED, *looks])
    blocks = [np.abs(sq.t_of_looks(rng, looks, sq.BLOCK)) for _ in range(sq.SEQUENCES // sq.BLOCK)]
    weight = np.sqrt(looks[-1] / np.array(looks)) if shape == "obrien_fleming" else np.ones(len(looks))
    for c in (0.5, 1.0, 1.25, 1.75, 2.0, 2.5):
        t = np.concatenate(blocks if c >= sq.FREQUENT else blocks[:1])
        passed = 2 * stdtr(np.array(looks) - 1, -t) <= 2 * ndtr(-c * weight)
        extra = np.maximum(passed.sum(axis=1) - 1, 0)
        at = int(c * 32)
        assert sq.CONSTANTS[at] == c
        assert overlap[at] == pytest.approx(extra.mean(), abs=1e-12)
        assert error[at] == pytest.approx(extra.std() / math.sqrt(len(t)), rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES.values())
def test_the_stated_error_is_the_spread_over_seeds(monkeypatch, tmp_path, shape):
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path))
    found = []
    for seed in range(20):
        monkeypatch.setattr(sq, "SEED", seed)
        sq.boundaries.cache_clear()
        found.append(sq.boundaries((4, 8), shape))
    stated = math.sqrt(np.mean([b.constant_error**2 for b in found]))
    spread = np.std([b.constant for b in found], ddof=1)
    assert 0.55 < spread / stated < 1.6  # of 20 seeds, by chi-square, in all but 1 of 500
    exact = {"obrien_fleming": 1.9911, "pocock": 2.2026}[shape]
    assert abs(np.mean([b.constant for b in found]) - exact) < 4 * stated / math.sqrt(20)


def normal_theory(looks: tuple[float, ...], shape: sq.Shape, alpha: float = 0.05) -> float:
    """The constant with known variance: Armitage, McPherson and Rowe's recursion by Gauss-Legendre quadrature."""
    n = np.array(looks, float)
    weights = np.sqrt(n[-1] / n) if shape == "obrien_fleming" else np.ones(len(n))
    x, w = np.polynomial.legendre.leggauss(80)

    def passed(c: float) -> float:
        bound = c * weights * np.sqrt(n)  # of the sum of n values of variance 1
        at, weight = bound[0] * x, bound[0] * w
        density = np.exp(-(at**2) / (2 * n[0])) / math.sqrt(2 * math.pi * n[0])
        for k in range(1, len(n)):
            new, scale = bound[k] * x, math.sqrt(n[k] - n[k - 1])
            step = np.exp(-(((new[:, None] - at) / scale) ** 2) / 2) / (scale * math.sqrt(2 * math.pi))
            density, at, weight = step @ (density * weight), new, bound[k] * w
        return 1 - float(density @ weight)

    return float(brentq(lambda c: passed(c) - alpha, 1.5, 5, xtol=1e-13))


@pytest.mark.parametrize(("case", "key"), cases("statistics_sequential*", normals))
def test_normal_theory_is_the_recorded_one(case: Case, key: str):
    _, _, name, shape = key.split("/")
    looks = tuple(range(1, int(name[6:]) + 1)) if name.startswith("equal_") else tuple(map(int, name.split("-")))
    assert normal_theory(looks, SHAPES[shape]) == pytest.approx(case[f"{key}/constant"].item(), abs=1e-6)


def test_two_looks_of_normal_theory_in_closed_form():
    c = normal_theory((1, 2), "pocock")
    both = multivariate_normal(cov=[[1, math.sqrt(0.5)], [math.sqrt(0.5), 1]])
    inside = both.cdf([c, c], lower_limit=[-c, -c])
    assert 1 - inside == pytest.approx(0.05, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("looks", [(1000, 2000), (2000, 5000, 6000), (3000, 4000, 9000, 20000)])
@pytest.mark.parametrize("shape", SHAPES.values())
def test_with_many_pairs_the_constant_is_that_of_normal_theory(looks, shape):
    b = sq.boundaries(looks, shape)
    # t of n - 1 freedoms differs from normal by O(1/n): 1e-4 here.
    assert abs(b.constant - normal_theory(looks, shape)) < 4 * b.constant_error + 1e-4


@pytest.mark.parametrize("n", [2, 3, 5, 12, 100])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_one_look_is_the_ordinary_t_test(n, alpha):
    b = sq.boundaries((n,), "pocock", alpha)
    assert b.t[0] == pytest.approx(student.ppf(1 - alpha / 2, n - 1), rel=1e-9)
    assert b.constant == pytest.approx(-ndtri(alpha / 2), rel=1e-9) and b.constant_error == 0
    for nominal in (1e-9, 0.03, 0.4, 1.0):
        assert b.adjusted_p(0, nominal) == pytest.approx(nominal, rel=1e-9)
    assert b.half_width(0, 2.0) == pytest.approx(b.t[0] * 2 / math.sqrt(n))


@pytest.mark.parametrize("looks", [(3, 5, 8), (4, 8, 12), (3, 4, 5, 6, 7, 8, 9), (3, 300), (6, 7)])
@pytest.mark.parametrize("shape", SHAPES.values())
def test_shape_error_and_bounds_of_any_design(looks, shape):
    b = sq.boundaries(looks, shape)
    z = np.array(b.z)
    weight = np.sqrt(looks[-1] / np.array(looks)) if shape == "obrien_fleming" else 1
    assert z == pytest.approx(b.constant * weight)
    assert np.array(b.p) == pytest.approx(2 * ndtr(-z))
    assert 2 * stdtr(np.array(looks) - 1, -np.array(b.t)) == pytest.approx(np.array(b.p), rel=1e-6)
    # Between one look and Bonferroni.
    assert max(b.p) <= 0.05 + 1e-9 and sum(b.p) >= 0.05 - 1e-9
    assert b.overall(b.constant) == pytest.approx(0.05, abs=1e-9)
    assert 0 <= b.constant_error < 0.03


@pytest.mark.parametrize("shape", SHAPES.values())
def test_adjusted_p_and_interval_agree_with_the_boundary(shape):
    """p < alpha just where the interval excludes 0, at each look; p is 1 for nothing and falls with t."""
    b = sq.boundaries((4, 8, 12), shape)
    for look, n in enumerate(b.looks):
        assert b.adjusted_p(look, b.p[look]) == pytest.approx(0.05, abs=1e-9)
        ts = np.concatenate([np.linspace(0, 40, 300), b.t[look] * np.array([0.999, 1.001])])
        ps = [b.adjusted_p(look, 2 * stdtr(n - 1, -t)) for t in ts]
        for t, p in zip(ts, ps, strict=True):
            sd = 3.0
            mean = t * sd / math.sqrt(n)
            assert (p < b.alpha) == (mean - b.half_width(look, sd) > 0) == (t > b.t[look])
        assert ps[0] == 1 and all(a >= b for a, b in zip(ps[:300], ps[1:300], strict=False))


def test_adjusted_p_is_valid_at_whatever_look_one_stops():
    """With no effect, the least adjusted p of all looks is below x with probability x."""
    for shape in SHAPES.values():
        b = sq.boundaries((4, 8, 12), shape)
        t = np.abs(sq.t_of_looks(np.random.default_rng(1), b.looks, 800))
        nominal = 2 * stdtr(np.array(b.looks) - 1, -t)
        least = np.array([min(b.adjusted_p(k, p) for k, p in enumerate(row)) for row in nominal])
        for x in (0.01, 0.05, 0.2, 0.5):
            assert (least < x).mean() == pytest.approx(x, abs=5 * math.sqrt(x * (1 - x) / 800))


def test_equal_designs_are_equal_digit_for_digit_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path))
    made = sq.boundaries((3, 6), "pocock")
    (kept,) = (tmp_path / "boundaries").iterdir()
    sq.boundaries.cache_clear()
    with monkeypatch.context() as m:
        m.setattr(sq, "_simulated", None)  # not called: read from the file
        assert sq.boundaries((3, 6), "pocock") == made
    for spoilt in (b"", b"{}", b'{"overlap": [1], "error": [2]}', json.dumps({"overlap": None, "error": 3}).encode()):
        kept.write_bytes(spoilt)
        sq.boundaries.cache_clear()
        assert sq.boundaries((3, 6), "pocock") == made
    kept.unlink()
    (tmp_path / "boundaries").rmdir()
    (tmp_path / "boundaries").write_text("no folder")
    sq.boundaries.cache_clear()
    assert sq.boundaries((3, 6), "pocock") == made


@pytest.mark.parametrize("looks", [(), (1,), (2, 4), (4, 4), (8, 4), (3, 5, 4)])
def test_what_is_no_plan_is_refused(looks):
    with pytest.raises(ValueError, match="looks: .*ascending"):
        sq.boundaries(looks)
    with pytest.raises(ValueError, match="shape: 'haybittle'"):
        sq.check((4, 8), "haybittle")
    with pytest.raises(ValueError, match="alpha: 0"):
        sq.check((4, 8), alpha=0)


@pytest.mark.slow
def test_a_plan_takes_seconds():
    sq.boundaries.cache_clear()
    start = time.process_time()
    sq._simulated((4, 8, 12, 16, 20), "obrien_fleming")
    assert time.process_time() - start < 20
