"""The Fréchet distance on DINOv2 ViT-L/14 features (Stein et al. 2023), torch-fidelity's extractor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.evaluation.evidence import Evidence, Heading, Needs, Protocol, Record, Setting
from harness.evaluation.features import DINOV2
from harness.metrics._distances import frechet_heading, frechet_records, moment_needs

EPOCH = 1


@dataclass(frozen=True)
class Options:
    protocols: tuple[Protocol, ...] = ()


def needs(options: Options, setting: Setting) -> Needs:
    return moment_needs(DINOV2, options.protocols, setting)


def compute(evidence: Evidence, options: Options, setting: Setting) -> dict[str, Record]:
    """`fd_dinov2_50k_full`."""
    return frechet_records("fd_dinov2_", DINOV2, options.protocols, evidence, setting)


def heading(name: str, protocol: Mapping[str, Any]) -> Heading | None:
    return frechet_heading(name, "fd_dinov2_", "FD-DINOv2 ", 1024)
