"""Fréchet Inception Distance (Heusel et al. 2017) on torch-fidelity's `inception-v3-compat` features."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.evaluation.evidence import Evidence, Heading, Needs, Protocol, Record, Setting
from harness.evaluation.features import INCEPTION
from harness.metrics._distances import frechet_records, moment_needs, to_trained

FEATURES = 2048
PAPER = "fid50k_full"  # 50,000 fakes against all images of the training split

EPOCH = 1


@dataclass(frozen=True)
class Options:
    """`weights: any` accepts a file other than the published one; the name then says so."""

    protocols: tuple[Protocol, ...] = ()
    weights: Literal["published", "any"] = "published"


def needs(options: Options, setting: Setting) -> Needs:
    return moment_needs(replace(INCEPTION, weights=options.weights), options.protocols, setting)


def compute(evidence: Evidence, options: Options, setting: Setting) -> dict[str, Record]:
    """`fid50k_full`: 50,000 fakes against all images of the training split."""
    name = "fid" if options.weights == "published" else "fid_any_weights_"
    return frechet_records(name, replace(INCEPTION, weights=options.weights), options.protocols, evidence, setting)


def heading(name: str, protocol: Mapping[str, Any]) -> Heading | None:
    if not re.match(r"fid(_any_weights_)?\d", name):
        return None
    if to_trained(name):
        return Heading(role="distance", label=name, features=FEATURES)
    if name == PAPER:
        return Heading(role="distance", label="FID", headline=True, rank=0, paper="fid", features=FEATURES)
    apart = f"the paper's FID takes 50,000 generated images against all reals: {name} is not comparable"
    return Heading(role="distance", label=name, headline=True, rank=1, apart=apart, features=FEATURES)
