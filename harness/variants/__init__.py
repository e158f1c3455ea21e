"""Variants: one file per way of changing a baseline GAN.

A variant is one module in this package with

    Options                              frozen dataclass, typed fields
    PROFILES                             {"paper": {...}, "release": {...}}: option values laid under the
                                         user's, where `Options` has a field `profile`
    EPOCH                                raised when the same options train to other numbers than before
    PROVIDES, REQUIRES                   what it adds to the fakes ("heatmaps"), what it needs there

and one or both of

    encoder(sites, resolution, options)  -> harness.generator.Encoder, acts inside G
    term(options, resolution)            -> GTerm, adds to G's loss

An arm without variants is the baseline.
"""

from typing import Protocol

from torch import Tensor

from harness.generator import Fakes


class GTerm(Protocol):
    """A term of G's loss computed from the one forward pass of D that the GAN loss uses.

    `taps` names the feature maps of D it needs. Called with logits [N], feats {tap: [N, C, H, W]}
    (both in the graph) and the fakes they belong to, it returns the scalar to add and its parts
    by name for the journal, in the order of their making. Nothing here waits for the device: a value
    that is not finite is handed on as it is, and the next tick names the first of them.
    """

    taps: tuple[str, ...]

    def __call__(self, logits: Tensor, feats: dict[str, Tensor], fakes: Fakes) -> tuple[Tensor, dict[str, Tensor]]: ...
