"""Density and coverage (Naeem et al. 2020, https://arxiv.org/abs/2002.09797), on any extractor.

With B(x) the open ball around a real x that reaches to its k-th nearest other real: density is the number of reals'
balls that a fake lies in, over k; coverage is the share of reals whose ball holds a fake. Two samples of N of one
distribution have E[density] = 1 and E[coverage] = 1 - prod over i=1..k of (N - i) / (2N - i), which tends to 1 - 2^-k:
0.969 at k = 5. Density is not bounded by 1, and neither sees a fake that copies a real.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from harness.evaluation.evidence import Evidence, Heading, Needs, Record, Setting, record
from harness.metrics._distances import feature_needs, pairs, protocol_of
from harness.metrics._extractors import Features
from harness.metrics._neighbours import ROWS, radii

EPOCH = 1


@dataclass(frozen=True)
class Options(Features):
    k: Annotated[int, ">= 1"] = 5


def needs(options: Options, setting: Setting) -> Needs:
    return feature_needs(options.chosen, options.protocols, setting, options.k + 1, "metrics.density_coverage.k + 1")


def compute(evidence: Evidence, options: Options, setting: Setting) -> dict[str, Record]:
    """`density_inception_50k_full` and `coverage_inception_50k_full`; the errors treat images as independent."""
    records = {}
    for c, fakes, reals in pairs(options.chosen, options.protocols, setting):
        fake, real = (torch.from_numpy(evidence.features[s]) for s in (fakes, reals))
        balls, covered = inside(fake, real, radii(real, options.k))
        protocol = protocol_of(c, fakes, evidence, setting, k=options.k)
        density, coverage = balls.double() / options.k, covered.double()
        for name, values in (("density", density), ("coverage", coverage)):
            error = float(values.std() / len(values) ** 0.5)
            records[f"{name}_{options.tag}{c.suffix}"] = record(
                float(values.mean()), "higher", protocol, se=error, of_equal_distributions=_expected(name, c, options.k)
            )
    return records


def heading(name: str, protocol: Mapping[str, Any]) -> Heading | None:
    if not name.startswith(("density_", "coverage_")):
        return None
    return Heading(role="other", label=name.replace("_", " "))


def inside(fakes: Tensor, reals: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """In how many of the balls around `reals` [N, D], open and of radius `reach` [N], each of `fakes` [M, D] lies: int
    [M]; and which balls hold any: bool [N]."""
    covered = torch.zeros(len(reals), dtype=torch.bool)
    counts = []
    for rows in fakes.split(ROWS):
        hit = torch.cdist(rows, reals) < reach
        counts.append(hit.sum(1))
        covered |= hit.any(0)
    return torch.cat(counts), covered


def expected_coverage(num_fakes: int, num_reals: int, k: int) -> float:
    """E[coverage] where fakes and reals are of one continuous distribution.

    A real is missed where its k nearest of the other N - 1 reals and M fakes are all reals:
    prod over i=1..k of (N - i) / (N + M - i).
    """
    missed = 1.0
    for i in range(1, k + 1):
        missed *= (num_reals - i) / (num_reals + num_fakes - i)
    return 1 - missed


def _expected(name: str, comparison: Any, k: int) -> float:
    """What two samples of one distribution give on average. Density: a fake is inside a real's ball with
    probability k / N."""
    return 1.0 if name == "density" else expected_coverage(comparison.num_fakes, comparison.num_reals, k)
