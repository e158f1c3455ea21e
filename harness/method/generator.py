"""A backbone's generator together with what a variant adds to it, as one module.

EMA, checkpoints, sampling and scoring see this module alone, so they need no special
case for any arm.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from backbones import Draws, Generator, Modulate, identity

Heatmaps = dict[int, Tensor]
"""Feature resolution (4, 8, 16) -> one channel per sub-region [N, n, r, r]."""


class Encoder(nn.Module):
    """What an encoding variant (`sel`, `flatten`) builds: its layers and its sampler."""

    def sample(self, n: int, rng: torch.Generator) -> Heatmaps:
        """Draw the heatmaps of n images on the generator's device."""
        raise NotImplementedError

    def modulation(self, heatmaps: Heatmaps) -> Modulate:
        """Encode the heatmaps once; the result acts at the sites of one forward pass."""
        raise NotImplementedError


class Fakes(NamedTuple):
    """`images` [N, C, R, R]; `ws` as in `backbones.Synthesis`; `heatmaps` used, None for a baseline."""

    images: Tensor
    ws: Tensor
    heatmaps: Heatmaps | None


class SpatialGenerator(nn.Module):
    """`backbone` with `encoder` acting at its sites; without one it is the backbone itself:
    no further parameter, no heatmap drawn."""

    def __init__(self, backbone: Generator, encoder: Encoder | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        draws: Draws,
        heatmaps: Heatmaps | None = None,
        mixing: float = 0.0,
    ) -> Fakes:
        """Draw heatmaps from `draws("heatmaps")` unless they are given, then generate."""
        modulate: Modulate = identity
        if self.encoder is not None:
            if heatmaps is None:
                heatmaps = self.encoder.sample(len(z), draws("heatmaps"))
            modulate = self.encoder.modulation(heatmaps)
        images, ws = self.backbone(z, labels, modulate=modulate, draws=draws, mixing=mixing)
        return Fakes(images, ws, heatmaps)
