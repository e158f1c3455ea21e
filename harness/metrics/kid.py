"""Kernel Inception Distance (Binkowski et al. 2018) on torch-fidelity's `inception-v3-compat` features."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from harness.metrics import Evidence, Needs, Protocol, Record, Setting
from harness.metrics._distances import feature_needs, kernel_records
from harness.metrics._features import INCEPTION

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
