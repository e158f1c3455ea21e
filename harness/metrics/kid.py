"""Kernel Inception Distance (Binkowski et al. 2018) on torch-fidelity's `inception-v3-compat` features."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from harness.evaluation.evidence import Evidence, Heading, Needs, Protocol, Record, Setting
from harness.evaluation.features import INCEPTION
from harness.metrics._distances import feature_needs, kernel_records

EPOCH = 1


@dataclass(frozen=True)
class Options:
    """Subsets as in torch-fidelity: `subsets` draws of `subset_size` images from either side."""

    protocols: tuple[Protocol, ...] = ()
    subsets: Annotated[int, ">= 1"] = 100
    subset_size: Annotated[int, ">= 2"] = 1000
    rng_seed: Annotated[int, ">= 0"] = 2020
    weights: Literal["published", "any"] = "published"


def needs(options: Options, setting: Setting) -> Needs:
    extractor = replace(INCEPTION, weights=options.weights)
    return feature_needs(extractor, options.protocols, setting, options.subset_size, "metrics.kid.subset_size")


def compute(evidence: Evidence, options: Options, setting: Setting) -> dict[str, Record]:
    """`kid50k_full`: mean squared MMD over the subsets, torch-fidelity's draws and sums."""
    return kernel_records(
        "kid" if options.weights == "published" else "kid_any_weights_",
        replace(INCEPTION, weights=options.weights),
        options.protocols,
        evidence,
        setting,
        subsets=options.subsets,
        subset_size=options.subset_size,
        rng_seed=options.rng_seed,
    )


def heading(name: str, protocol: Mapping[str, Any]) -> Heading | None:
    return Heading(role="distance") if re.match(r"kid(_any_weights_)?\d", name) else None
