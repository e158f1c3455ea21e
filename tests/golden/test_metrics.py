"""The maths of the metrics against recorded float64 values (`metrics*`)."""

from typing import Any

import numpy as np
import pytest
import torch

from harness.evaluation import frechet, scores
from harness.metrics import _distances, precision_recall
from tests.golden._golden import Case, cases, close

FID, KID, RADIUS, DI = 1e-8, 1e-11, 1e-10, 1e-12  # the tolerances of the golden README, float64


def check(actual: Any, expected: torch.Tensor, tolerance: float, what: str) -> None:
    close(torch.as_tensor(np.asarray(actual, np.float64)), expected, tolerance, what)


def moments(features: torch.Tensor, batch: int = 77) -> frechet.Moments:
    running = frechet.Moments.empty(features.shape[1])
    for part in features.split(batch):
        running.add(part)
    return running


@pytest.mark.parametrize("case", cases("metrics*"))
def test_streamed_moments_and_fid(case: Case) -> None:
    found = {name: moments(case[f"in/feat_{name}"]) for name in ("real", "gen")}
    for name, m in found.items():
        biased = m.covariance * (m.count - 1) / m.count
        check(m.mean, case[f"out/mu_{name}"], DI, f"mu_{name}")
        check(m.covariance, case[f"out/sigma_{name}_unbiased"], DI, f"sigma_{name}_unbiased")
        check(biased, case[f"out/sigma_{name}_biased"], DI, f"sigma_{name}_biased")
    check(frechet.distance(found["real"], found["gen"]), case["out/fid_unbiased"], FID, "fid_unbiased")
    biased_fid = frechet.frechet_distance(
        *(x for m in found.values() for x in (m.mean.numpy(), m.covariance * (m.count - 1) / m.count))
    )
    check(biased_fid, case["out/fid_biased"], FID, "fid_biased")


@pytest.mark.parametrize("case", cases("metrics*"))
def test_kid(case: Case) -> None:
    real, gen = case["in/feat_real"].numpy(), case["in/feat_gen"].numpy()
    check(_distances.kernel_distance(gen, real), case["out/kid_full"], KID, "kid_full")
    rows = list(zip(case["in/kid_idx_gen"].numpy(), case["in/kid_idx_real"].numpy(), strict=True))
    values = _distances.kernel_subsets(gen, real, rows)
    check(values, case["out/kid_subset_values"], KID, "kid_subset_values")
    check(values.mean(), case["out/kid_subset_mean"], KID, "kid_subset_mean")


@pytest.mark.parametrize("case", cases("metrics*"))
def test_precision_and_recall(case: Case) -> None:
    real, gen, k = case["in/feat_real"], case["in/feat_gen"], case.config.get("k", 3)
    reach_real, reach_gen = (precision_recall.radii(x, k) for x in (real, gen))
    check(reach_real, case["out/radius_real"], RADIUS, "radius_real")
    check(reach_gen, case["out/radius_gen"], RADIUS, "radius_gen")
    covered_gen = precision_recall.inside(gen, real, reach_real)
    covered_real = precision_recall.inside(real, gen, reach_gen)
    assert torch.equal(covered_gen, case["out/gen_in_real_manifold"].bool())
    assert torch.equal(covered_real, case["out/real_in_gen_manifold"].bool())
    assert covered_gen.double().mean() == case["out/precision"]
    assert covered_real.double().mean() == case["out/recall"]


def pools(case: Case) -> list[tuple[str, str]]:
    names = sorted({k.split("/")[2] for k in case.keys if k.startswith("in/di/")})
    return [(name, name) for name in names]


@pytest.mark.parametrize(("case", "pool"), cases("metrics*", pools))
def test_disequilibrium(case: Case, pool: str) -> None:
    given, expected = case.group(f"in/di/{pool}/"), case.group(f"out/di/{pool}/")
    real, fake = given["scores_real"].numpy(), given["scores_fake"].numpy()
    repeats, n = given["idx_real"].shape
    per_repeat = real[given["idx_real"].numpy()].min(1) - fake[given["idx_fake"].numpy()].max(1)
    found = {
        "per_repeat": per_repeat,
        "mean": per_repeat.mean(),
        "expected_di": scores.expected_di(real, fake, n),
        "expected_di_with_replacement": scores.expected_di(real, fake, n, replacement=True),
        "expected_min_real": scores.expected_minimum(real, n)[0],
        "expected_max_fake": -scores.expected_minimum(-fake, n)[0],
        "di_whole_pool": real.min() - fake.max(),
    }
    assert repeats == case.config["repeats"]
    assert set(expected) == {*found, "variance_of_one_repeat"}
    for name, value in found.items():
        check(value, expected[name], DI, name)
    # A variance that is exactly 0 (the whole pool is drawn) has no scale of its own.
    scale = max(float(expected["variance_of_one_repeat"]), float(np.var(real)))
    difference = abs(scores.di_variance(real, fake, n) - float(expected["variance_of_one_repeat"]))
    assert difference <= DI * scale


@pytest.mark.parametrize(("case", "pool"), cases("metrics*", pools))
def test_the_recorded_draws_agree_with_the_exact_value(case: Case, pool: str) -> None:
    given, expected = case.group(f"in/di/{pool}/"), case.group(f"out/di/{pool}/")
    repeats, n = given["idx_real"].shape
    exact = scores.expected_di(given["scores_real"].numpy(), given["scores_fake"].numpy(), n)
    error = float((expected["variance_of_one_repeat"] / repeats).sqrt())
    assert abs(float(expected["mean"]) - exact) <= 3 * error + DI * abs(exact)
