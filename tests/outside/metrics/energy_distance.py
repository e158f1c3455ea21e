"""The energy distance (Székely & Rizzo 2013) of features: 2 E|x - y| - E|x - x'| - E|y - y'|, x of fakes, y of reals.

It is 0 exactly where the two distributions are equal, and asks for no Gaussian shape, as a Fréchet distance does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from harness.evaluation.evidence import Evidence, Heading, Needs, Protocol, Record, Setting, record
from harness.evaluation.features import EFFICIENTNET_LITE0, Extractor
from harness.metrics._distances import feature_needs, pairs, protocol_of


@dataclass(frozen=True)
class Options:
    protocols: tuple[Protocol, ...] = ()
    size: Annotated[int, ">= 32"] = 224


def needs(options: Options, setting: Setting) -> Needs:
    return feature_needs(_extractor(options), options.protocols, setting, 2, "metrics.energy_distance")


def compute(evidence: Evidence, options: Options, setting: Setting) -> dict[str, Record]:
    """`energy_distance_<size>px_<counts>`."""
    return {
        f"energy_distance_{options.size}px_{c.suffix}": record(
            energy_distance(evidence.features[fakes], evidence.features[reals]),
            "lower",
            protocol_of(c, fakes, evidence, setting, statistics="float64, U-statistic"),
        )
        for c, fakes, reals in pairs(_extractor(options), options.protocols, setting)
    }


def heading(name: str, protocol: Mapping[str, Any]) -> Heading | None:
    known = name.startswith("energy_distance_")
    return Heading(role="distance", label="Energy distance", headline=True, rank=3) if known else None


def energy_distance(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Unbiased, of features [N, D] and [M, D]; may be slightly negative where the two are alike."""
    n, m = len(x), len(y)
    across, of_x, of_y = _distances(x, y).mean(), _distances(x, x).sum(), _distances(y, y).sum()
    return float(2 * across - of_x / (n * (n - 1)) - of_y / (m * (m - 1)))


def _distances(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean distances [N, M]."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
    if x is y:
        np.fill_diagonal(squares, 0.0)
    return np.sqrt(np.maximum(squares, 0.0))


def _extractor(options: Options) -> Extractor:
    return replace(EFFICIENTNET_LITE0, size=options.size)
