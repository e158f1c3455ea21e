"""Fréchet Inception Distance (Heusel et al. 2017) on torch-fidelity's `inception-v3-compat` features."""

from dataclasses import dataclass, replace
from typing import Literal

from harness.metrics import Evidence, Needs, Protocol, Record, Setting
from harness.metrics._distances import frechet_records, moment_needs
from harness.metrics._features import INCEPTION

EPOCH = 1


@dataclass(frozen=True)
class Options:
    """`weights: any` accepts a file other than the published one; the name then says so."""

    protocols: tuple[Protocol, ...] = ()
    weights: Literal["published", "any"] = "published"


def needs(options: Options, setting: Setting) -> Needs:
    return moment_needs(replace(INCEPTION, weights=options.weights), options.protocols, setting)


def compute(evidence: Evidence, options: Options, setting: Setting) -> dict[str, Record]:
    """`fid50k_full`: 50,000 fakes against all training images."""
    name = "fid" if options.weights == "published" else "fid_any_weights_"
    return frechet_records(name, replace(INCEPTION, weights=options.weights), options.protocols, evidence, setting)
