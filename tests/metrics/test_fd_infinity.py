"""FD-infinity on Gaussians whose distance is known."""

import numpy as np
import pytest
import torch

from harness.evaluation.evidence import Evidence, Setting
from harness.evaluation.frechet import Moments, distance
from harness.experiment.spec import Eval, Plugin
from harness.metrics import fd_infinity
from tests.contract.test_metrics import image_set


def test_sizes_are_those_of_the_paper() -> None:
    assert fd_infinity.subset_sizes(50_000)[0] == 5000 and fd_infinity.subset_sizes(50_000)[-1] == 50_000
    assert fd_infinity.subset_sizes(10_000)[0] == 1000
    assert len(set(fd_infinity.subset_sizes(300))) == 15


def test_a_line_is_read_at_zero() -> None:
    x = np.linspace(0.1, 1, 15)
    value, error = fd_infinity.at_zero(x, 3 + 2 * x)
    assert value == pytest.approx(3) and error == pytest.approx(0, abs=1e-12)


def test_the_error_of_the_value_at_zero_is_its_spread() -> None:
    x, rng = np.linspace(0.1, 1, 15), np.random.default_rng(0)
    found = np.array([fd_infinity.at_zero(x, 3 + 2 * x + rng.normal(0, 0.1, 15)) for _ in range(4000)])
    assert found[:, 0].std() == pytest.approx(np.sqrt((found[:, 1] ** 2).mean()), rel=0.05)


def test_gaussians_of_known_distance() -> None:
    """N fakes of N(m, s^2) against the exact moments of N(0, 1): the plain distance is biased by far more than what is
    left at infinity."""
    dim, count, shift, scale = 32, 4000, 0.1, 1.2
    known = dim * (shift**2 + (scale - 1) ** 2)
    options = fd_infinity.Options(extractor="efficientnet_lite0")
    spec = Eval((Plugin("fd_infinity", options),), num_fakes=count)
    setting = Setting(spec, image_set(5000), None)
    needs = fd_infinity.needs(options, setting)
    (fakes,), (reals,) = needs.features, needs.moments
    exact = Moments(10**9, torch.zeros(dim).double(), torch.eye(dim).double() * (10**9 - 1))
    plain, extrapolated = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        features = (shift + scale * rng.normal(size=(count, dim))).astype(np.float32)
        evidence = Evidence({reals: exact}, {fakes: features}, about={fakes.extractor: {"extractor": "x"}})
        (record,) = fd_infinity.compute(evidence, options, setting).values()
        plain.append(distance(Moments.of(torch.from_numpy(features)), exact) - known)
        extrapolated.append(record["value"] - known)
        assert record["extra"]["rank_deficient"] is False
    bias, left = np.mean(plain), np.mean(extrapolated)
    assert bias > 0.05 and abs(left) < 4 * np.std(extrapolated, ddof=1) / np.sqrt(8) < 0.06
    assert abs(left) < bias / 2


def test_too_few_images_for_the_features_are_said() -> None:
    options = fd_infinity.Options(extractor="efficientnet_lite0")
    setting = Setting(Eval((Plugin("fd_infinity", options),), num_fakes=300), image_set(5000), None)
    needs = fd_infinity.needs(options, setting)
    (fakes,), (reals,) = needs.features, needs.moments
    rng = np.random.default_rng(0)
    evidence = Evidence(
        {reals: Moments.of(torch.from_numpy(rng.normal(size=(500, 64))))},
        {fakes: rng.normal(size=(300, 64)).astype(np.float32)},
        about={fakes.extractor: {"extractor": "x"}},
    )
    (record,) = fd_infinity.compute(evidence, options, setting).values()
    assert record["extra"]["rank_deficient"] is True
