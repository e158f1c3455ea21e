"""KID's kernel distance on EfficientNet-Lite1's 1280 pooled ImageNet features: offline, never called KID."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from harness.evaluation.evidence import Evidence, Heading, Needs, Protocol, Record, Setting
from harness.evaluation.features import EFFICIENTNET_LITE1
from harness.metrics._distances import feature_needs, kernel_records

EPOCH = 1


@dataclass(frozen=True)
class Options:
    """`size`: side to which images are resized; other than 240 it is in the name."""

    protocols: tuple[Protocol, ...] = ()
    size: Annotated[int, ">= 32"] = 240
    subsets: Annotated[int, ">= 1"] = 100
    subset_size: Annotated[int, ">= 2"] = 1000
    rng_seed: Annotated[int, ">= 0"] = 2020


def needs(options: Options, setting: Setting) -> Needs:
    extractor = replace(EFFICIENTNET_LITE1, size=options.size)
    what = "metrics.kd_efficientnet_lite1.subset_size"
    return feature_needs(extractor, options.protocols, setting, options.subset_size, what)


def compute(evidence: Evidence, options: Options, setting: Setting) -> dict[str, Record]:
    size = "" if options.size == EFFICIENTNET_LITE1.size else f"{options.size}px_"
    return kernel_records(
        f"kd_efficientnet_lite1_{size}",
        replace(EFFICIENTNET_LITE1, size=options.size),
        options.protocols,
        evidence,
        setting,
        subsets=options.subsets,
        subset_size=options.subset_size,
        rng_seed=options.rng_seed,
    )


def heading(name: str, protocol: Mapping[str, Any]) -> Heading | None:
    return Heading(role="distance") if name.startswith("kd_efficientnet_lite1_") else None
