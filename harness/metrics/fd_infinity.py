"""The Fréchet distance that infinitely many fakes would have (Chong and Forsyth 2020, https://arxiv.org/abs/1911.07023).

The distance of N fakes is too large by about a / N, and a differs between generators. So it is taken at 15 sizes from
min(5000, N / 10) to N, each a random subset, against the same reals, and the line through them over 1/N is read at 0.
Below a few times as many images as features the bias is no line: the value then says little, and its record says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.evaluation.evidence import Evidence, Heading, Needs, Record, Setting, record
from harness.evaluation.frechet import Moments, distance
from harness.metrics._distances import feature_needs, pairs, protocol_of
from harness.metrics._extractors import FEATURES, Features

EPOCH = 1

POINTS = 15


@dataclass(frozen=True)
class Options(Features):
    rng_seed: Annotated[int, ">= 0"] = 0


def needs(options: Options, setting: Setting) -> Needs:
    least = feature_needs(options.chosen, options.protocols, setting, 2 * POINTS, "metrics.fd_infinity: images")
    return Needs(
        features=tuple(s for s in least.features if s.source == "fakes"),
        moments=tuple(s for s in least.features if s.source != "fakes"),
    )


def compute(evidence: Evidence, options: Options, setting: Setting) -> dict[str, Record]:
    """`fd_infinity_inception_50k_full` ...; the error is that of the line's value at 0."""
    records = {}
    for c, fakes, reals in pairs(options.chosen, options.protocols, setting):
        features = torch.from_numpy(evidence.features[fakes])
        sizes = subset_sizes(c.num_fakes)
        rng = np.random.default_rng(options.rng_seed)
        values = [
            distance(Moments.of(features[torch.from_numpy(rng.permutation(c.num_fakes)[:n])]), evidence.moments[reals])
            for n in sizes
        ]
        value, error = at_zero(1 / np.array(sizes), np.array(values))
        protocol = protocol_of(
            c, fakes, evidence, setting, points=POINTS, least=sizes[0], subset_seed=options.rng_seed, fit="line in 1/N"
        )
        records[f"fd_infinity_{options.tag}{c.suffix}"] = record(
            value,
            "lower",
            protocol,
            se=error,
            sizes=sizes,
            distances=values,
            rank_deficient=sizes[0] <= features.shape[1],
        )
    return records


def heading(name: str, protocol: Mapping[str, Any]) -> Heading | None:
    if not name.startswith("fd_infinity_"):
        return None
    told = Heading(role="distance", label=name.replace("_", " ").replace("fd infinity", "FD-infinity"), rank=4)
    count = next((n for tag, n in FEATURES.items() if name.startswith(f"fd_infinity_{tag}_")), None)
    return told if count is None else {**told, "features": count}


def subset_sizes(count: int) -> list[int]:
    """15 even steps from min(5000, max(count / 10, 2)) to count."""
    return [round(n) for n in np.linspace(min(5000, max(count // 10, 2)), count, POINTS)]


def at_zero(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Value at 0 of the least-squares line through (x, y), with its standard error."""
    spread = x - x.mean()
    slope = float(spread @ y / (spread @ spread))
    value = float(y.mean() - slope * x.mean())
    residual = y - value - slope * x
    variance = float(residual @ residual) / (len(x) - 2)
    return value, float(np.sqrt(variance * (1 / len(x) + x.mean() ** 2 / (spread @ spread))))
