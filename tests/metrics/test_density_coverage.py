"""Density and coverage against their closed forms, brute force and recorded neighbourhoods."""

import numpy as np
import pytest
import torch

from harness.evaluation.evidence import Evidence, Setting
from harness.experiment.spec import Eval, Plugin
from harness.metrics import density_coverage as dc
from harness.metrics._neighbours import radii
from tests.contract.test_metrics import image_set
from tests.golden._golden import Case, cases


@pytest.mark.parametrize("dim", [2, 16])
@pytest.mark.parametrize("num_fakes, num_reals", [(600, 600), (300, 900)])
def test_equal_distributions_give_the_closed_forms(dim: int, num_fakes: int, num_reals: int) -> None:
    found = []
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        fakes, reals = (torch.randn(n, dim, generator=rng) for n in (num_fakes, num_reals))
        balls, covered = dc.inside(fakes, reals, radii(reals, 5))
        found.append((float(balls.double().mean() / 5), float(covered.double().mean())))
    density, coverage = np.mean(found, 0)
    errors = np.std(found, 0, ddof=1) / np.sqrt(len(found))
    assert abs(density - 1) < 4 * errors[0]
    assert abs(coverage - dc.expected_coverage(num_fakes, num_reals, 5)) < 4 * errors[1]


def test_expected_coverage_at_the_published_size_and_in_the_limit() -> None:
    assert dc.expected_coverage(1500, 1500, 5) == pytest.approx(0.9689, abs=5e-5)
    assert dc.expected_coverage(10**7, 10**7, 5) == pytest.approx(1 - 2**-5, abs=1e-5)


def test_all_at_one_place() -> None:
    """All fakes upon one real: they lie in all balls around it and cover just these."""
    reals = torch.arange(10.0)[:, None] ** 2
    fakes = torch.full((7, 1), 9.0)  # upon the fourth
    reach = radii(reals, 2)
    hit = [abs(float(x) - 9) < float(r) for x, r in zip(reals, reach, strict=True)]
    balls, covered = dc.inside(fakes, reals, reach)
    assert balls.tolist() == [sum(hit)] * 7 and covered.tolist() == hit


def test_balls_are_open() -> None:
    reals = torch.tensor([[0.0], [1.0], [3.0]])
    balls, covered = dc.inside(torch.tensor([[2.0]]), reals, radii(reals, 1))  # radii 1, 1, 2
    assert balls.tolist() == [1] and covered.tolist() == [False, False, True]


def test_stripes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    fakes, reals = torch.randn(50, 4, generator=rng), torch.randn(70, 4, generator=rng)
    whole = dc.inside(fakes, reals, radii(reals, 3))
    monkeypatch.setattr(dc, "ROWS", 7)
    assert all(torch.equal(a, b) for a, b in zip(whole, dc.inside(fakes, reals, radii(reals, 3)), strict=True))


@pytest.mark.parametrize("case", cases("metrics*"))
def test_the_recorded_manifold_is_the_union_of_the_balls(case: Case) -> None:
    fakes, reals = case["in/feat_gen"].double(), case["in/feat_real"].double()
    balls, _ = dc.inside(fakes, reals, case["out/radius_real"].double())
    assert torch.equal(balls > 0, case["out/gen_in_real_manifold"].bool())


def test_the_records_are_those_of_their_definition() -> None:
    """By brute force: k-th nearest other real, balls around reals, fakes within them."""
    num_fakes, num_reals, k = 60, 90, 3
    options = dc.Options(extractor="efficientnet_lite0", k=k)
    setting = Setting(Eval((Plugin("density_coverage", options),), num_fakes=num_fakes), image_set(num_reals), None)
    samples = {s.source: s for s in dc.needs(options, setting).features}
    rng = np.random.default_rng(0)
    fakes, reals = (rng.normal(0.3 * i, 1, (n, 4)).astype(np.float32) for i, n in enumerate((num_fakes, num_reals)))
    evidence = Evidence(features={samples["fakes"]: fakes, samples["train"]: reals})
    evidence.about[samples["fakes"].extractor] = {"extractor": "x"}
    found = {name.split("_")[0]: r for name, r in dc.compute(evidence, options, setting).items()}
    reach = np.sort(np.linalg.norm(reals[:, None] - reals, axis=2), 1)[:, k]  # the 0th is the real itself
    within = np.linalg.norm(fakes[:, None] - reals, axis=2) < reach
    assert found["density"]["value"] == pytest.approx(within.sum() / (k * num_fakes))
    assert found["coverage"]["value"] == pytest.approx(within.any(0).mean())
    assert found["density"]["extra"]["of_equal_distributions"] == 1
    assert found["coverage"]["extra"]["of_equal_distributions"] == dc.expected_coverage(num_fakes, num_reals, k)
