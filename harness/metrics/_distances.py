"""The two distances between feature distributions that several extractors share."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.evaluation.evidence import Comparison, Evidence, Heading, Needs, Protocol, Record, Sample, Setting, record
from harness.evaluation.features import Extractor
from harness.evaluation.frechet import distance

EPOCH = 1

Floats = NDArray[np.floating[Any]]


def pairs(
    extractor: Extractor, protocols: tuple[Protocol, ...], setting: Setting
) -> list[tuple[Comparison, Sample, Sample]]:
    """Each protocol with the samples of fakes and of reals that it compares."""
    return [
        (c, Sample("fakes", c.num_fakes, extractor), Sample(c.split, c.num_reals, extractor))
        for c in setting.comparisons(protocols)
    ]


def protocol_of(
    comparison: Comparison, sample: Sample, evidence: Evidence, setting: Setting, **more: Any
) -> dict[str, Any]:
    """All that must be equal for two values of a feature metric to be comparable."""
    about = evidence.about[sample.extractor]
    counts = {k: v for k, v in comparison._asdict().items() if k != "whole" and (v or k != "held_out")}
    return {
        **setting.protocol(comparison.split, setting.reals(comparison.split)),
        **about,
        **counts,
        "flips": False,
        **more,
    }


def moment_needs(extractor: Extractor, protocols: tuple[Protocol, ...], setting: Setting) -> Needs:
    return Needs(moments=tuple(s for _, *both in pairs(extractor, protocols, setting) for s in both))


def frechet_records(
    name: str, extractor: Extractor, protocols: tuple[Protocol, ...], evidence: Evidence, setting: Setting
) -> dict[str, Record]:
    """One Fréchet distance a protocol, named `<name><counts>`."""
    return {
        f"{name}{c.suffix}": record(
            distance(evidence.moments[fakes], evidence.moments[reals]),
            "lower",
            protocol_of(c, fakes, evidence, setting, statistics="float64, covariance / (N - 1)"),
        )
        for c, fakes, reals in pairs(extractor, protocols, setting)
    }


def frechet_heading(name: str, prefix: str, label: str, features: int) -> Heading | None:
    """Of a Fréchet distance on so many other features than Inception's: `label` and the counts in its name."""
    if not name.startswith(prefix):
        return None
    if to_trained(name):
        return Heading(role="distance", label=label + name.removeprefix(prefix), features=features)
    apart = f"{name} is a Fréchet distance on other features than Inception's: not comparable with an FID"
    return Heading(role="distance", label=label + name.removeprefix(prefix), headline=True, rank=2, apart=apart,
                   features=features)  # fmt: skip


def to_trained(name: str) -> bool:
    """Whether the record is a distance to the images that training saw: it praises who learns these by heart, and heads
    no table."""
    return re.search(r"\d+k?_trained", name) is not None


def feature_needs(
    extractor: Extractor, protocols: tuple[Protocol, ...], setting: Setting, least: int, what: str
) -> Needs:
    """Features of both sides of every protocol; UserError where there are fewer than `least` of either."""
    compared = pairs(extractor, protocols, setting)
    for c, *_ in compared:
        if min(c.num_fakes, c.num_reals) < least:
            raise UserError(
                f"eval: {what}: {least}: larger than the sample of {min(c.num_fakes, c.num_reals)} images; "
                "lower it or compare more images"
            )
    return Needs(features=tuple(s for _, *both in compared for s in both))


def kernel_records(
    name: str,
    extractor: Extractor,
    protocols: tuple[Protocol, ...],
    evidence: Evidence,
    setting: Setting,
    *,
    subsets: int,
    subset_size: int,
    rng_seed: int,
) -> dict[str, Record]:
    """One kernel distance a protocol; its error is that of the mean over the (overlapping) subsets."""
    records = {}
    for c, fakes, reals in pairs(extractor, protocols, setting):
        rows = subset_rows(c.num_fakes, c.num_reals, subsets, subset_size, rng_seed)
        values = kernel_subsets(evidence.features[fakes], evidence.features[reals], rows)
        settings: dict[str, Any] = {"subsets": subsets, "subset_size": subset_size, "subset_seed": rng_seed}
        settings |= {"kernel": "(x.y/D + 1)^3", "kernel_precision": str(evidence.features[fakes].dtype)}
        records[f"{name}{c.suffix}"] = record(
            float(values.mean()),
            "lower",
            protocol_of(c, fakes, evidence, setting, **settings),
            se=float(values.std() / np.sqrt(subsets)),
            std_over_subsets=float(values.std()),
        )
    return records


def subset_rows(num_first: int, num_second: int, subsets: int, size: int, seed: int) -> list[tuple[NDArray, NDArray]]:
    """The rows of each subset: torch-fidelity's own draws, so that its value is met exactly."""
    draws = np.random.RandomState(seed)  # noqa: NPY002 (part of torch-fidelity's protocol)
    return [
        (draws.choice(num_first, size, replace=False), draws.choice(num_second, size, replace=False))
        for _ in range(subsets)
    ]


def kernel_subsets(first: Floats, second: Floats, rows: list[tuple[NDArray, NDArray]]) -> NDArray[np.float64]:
    """The squared maximum mean discrepancy of each pair of subsets."""
    return np.array([kernel_distance(first[a], second[b]) for a, b in rows], np.float64)


def kernel_distance(first: Floats, second: Floats) -> float:
    """Unbiased squared MMD of features [N, D] and [M, D] under (x.y/D + 1)^3 (Binkowski et al. 2018, equation 4):
    the off-diagonal means within each, minus twice the mean across. May be slightly negative. N and M at least 2.

    Summed in the features' precision and, for N = M, in torch-fidelity's order, so that its value is met exactly. In
    float32 that costs 1e-6 to 1e-5 of a small value: less than the subsets leave open, but more than two programs
    should differ by.
    """
    n, m = len(first), len(second)
    xx, yy = ((k.sum(axis=1) - np.diagonal(k)).sum() for k in (_cubic(first, first), _cubic(second, second)))
    within = (xx + yy) / (n * (n - 1)) if n == m else xx / (n * (n - 1)) + yy / (m * (m - 1))
    return float(within - 2 * _cubic(first, second).sum(axis=0).sum() / (n * m))


def _cubic(x: Floats, y: Floats) -> Floats:
    return (x @ y.T * (1 / x.shape[1]) + 1) ** 3
