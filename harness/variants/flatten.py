"""Flatten (Table 4): the heatmap as a vector joined to the latent code, its 2D structure gone.

The paper leaves the layer open. Here z becomes z + A [z; vec(H)]: one linear layer that starts
at 0, so that G starts as the baseline and its own shapes stay what they are.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from backbones import Modulate, Site
from harness.errors import UserError
from harness.method.generator import Encoder, Heatmaps
from harness.method.heatmaps import RELEASE, HeatmapOptions, Resize, resize, sample
from harness.variants._scaled import Scaled

EPOCH = 1


@dataclass(frozen=True)
class Options:
    profile: Literal["paper", "release"] = "paper"
    resize: Resize = "centers"  # of heatmaps rendered larger than their level
    equalized_lr: bool = True  # False suits backbones with plain layers (SN-DCGAN)
    heatmaps: HeatmapOptions = field(default_factory=HeatmapOptions)


PROFILES = {"paper": {}, "release": {"resize": "corners", "heatmaps": RELEASE}}
PROVIDES = ("heatmaps",)
LEVELS = {"heatmaps": {"levels": None}}


def encoder(sites: tuple[Site, ...], resolution: int, options: Options) -> Encoder:
    """The joining layer for the generator whose `sites` hold its latent. UserError where none does."""
    latent = [site for site in sites if site.resolution == 0]
    if len(latent) != 1:
        raise UserError(f"variants.flatten: the generator has {len(latent)} latent sites; it must have one")
    return FlattenEncoder(latent[0], resolution, options)


class FlattenEncoder(Encoder):
    """One linear layer from [z; vec(H)] to z's width."""

    def __init__(self, latent: Site, resolution: int, options: Options) -> None:
        super().__init__()
        self.options = options
        self.resolution = resolution
        self.latent = latent
        width = sum(level**2 for level in options.heatmaps.drawn)
        self.join = Scaled(latent.channels, latent.channels + width, equalized=options.equalized_lr, zero=True)

    def sample(self, n: int, rng: torch.Generator) -> Heatmaps:
        return sample(self.options.heatmaps, n, self.resolution, rng)

    def modulation(self, heatmaps: Heatmaps) -> Modulate:
        summed = {level: h.sum(dim=1, keepdim=True) for level, h in heatmaps.items()}
        vectors = [resize(h, level, self.options.resize).flatten(1) for level, h in summed.items()]

        def modulate(site: Site, x: Tensor) -> Tensor:
            if site != self.latent:
                return x
            with torch.autocast(x.device.type, enabled=False):
                return (x + self.join(torch.cat([x.float(), *vectors], dim=1))).to(x.dtype)

        return modulate
