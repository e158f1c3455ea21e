"""Improved precision and recall (Kynkäänniemi et al. 2019), on Inception features.

A sample's ball reaches to its k-th nearest other sample of its own set. Precision is the
share of fakes inside any real's ball, recall the share of reals inside any fake's. The
StyleGAN papers use VGG-16 features, so their values are not comparable with these.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from harness.evaluation.evidence import Evidence, Needs, Protocol, Record, Setting, record
from harness.evaluation.features import INCEPTION
from harness.metrics._distances import feature_needs, pairs, protocol_of
from harness.metrics._neighbours import ROWS, radii

EPOCH = 1


@dataclass(frozen=True)
class Options:
    protocols: tuple[Protocol, ...] = ()
    k: Annotated[int, ">= 1"] = 3
    weights: Literal["published", "any"] = "published"


def needs(options: Options, setting: Setting) -> Needs:
    extractor = replace(INCEPTION, weights=options.weights)
    return feature_needs(extractor, options.protocols, setting, options.k + 1, "metrics.precision_recall.k + 1")


def compute(evidence: Evidence, options: Options, setting: Setting) -> dict[str, Record]:
    """`precision50k_full` and `recall50k_full`."""
    tail = "" if options.weights == "published" else "_any_weights_"
    records = {}
    for c, fakes, reals in pairs(replace(INCEPTION, weights=options.weights), options.protocols, setting):
        fake, real = (torch.from_numpy(evidence.features[s]) for s in (fakes, reals))
        protocol = protocol_of(c, fakes, evidence, setting, k=options.k)
        for name, probes, manifold in (("precision", fake, real), ("recall", real, fake)):
            share = inside(probes, manifold, radii(manifold, options.k)).double().mean()
            error = float((share * (1 - share) / len(probes)).sqrt())
            records[f"{name}{tail}{c.suffix}"] = record(float(share), "higher", protocol, se=error)
    return records


def inside(probes: Tensor, points: Tensor, reach: Tensor) -> Tensor:
    """Whether each probe [M, D] lies within `reach` [N] of any of `points` [N, D]: bool [M]."""
    return torch.cat([(torch.cdist(rows, points) <= reach).any(1) for rows in probes.split(ROWS)])
