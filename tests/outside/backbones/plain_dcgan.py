"""A small DCGAN (Radford et al. 2016) without batch normalisation: upsampling convolutions in G, strided ones in D.

Conditional: the class's embedding is added to z in G, and projected on D's last features.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import Discriminator, Draws, Generator, Last, Modulate, Site, Synthesis, identity

MOMENTS = False


@dataclass(frozen=True)
class Options:
    z_dim: Annotated[int, ">= 1, <= 4096"] = 64
    width: Annotated[int, ">= 1, <= 1024"] = 32  # channels of every feature map


def check(options: Options, resolution: int, num_classes: int) -> None:
    """Raise ValueError where the networks can't be made."""
    if resolution not in (32, 64, 128):
        raise ValueError(f"resolution: {resolution}: plain_dcgan makes 32, 64 or 128; resize the dataset")


def build(
    options: Options, resolution: int, num_classes: int, channels: int = 3
) -> tuple["PlainGenerator", "PlainDiscriminator"]:
    """G and D with torch's own initial weights."""
    check(options, resolution, num_classes)
    g = PlainGenerator(options, resolution, num_classes, channels)
    return g, PlainDiscriminator(options, resolution, num_classes, channels)


def _sides(resolution: int) -> list[int]:
    return [4 << i for i in range(int(math.log2(resolution // 4)) + 1)]


class PlainGenerator(Generator):
    """z [N, z_dim], normal -> images [N, C, R, R] in (-1, 1). Sites: "latent", then "4", "8", ... after the ReLU."""

    def __init__(self, options: Options, resolution: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.z_dim, self.num_classes, self.resolution = options.z_dim, num_classes, resolution
        width, sides = options.width, _sides(resolution)
        self.sites = (Site("latent", options.z_dim, 0), *(Site(str(s), width, s) for s in sides))
        self.classes = nn.Embedding(num_classes, options.z_dim) if num_classes else None
        self.first = nn.Linear(options.z_dim, width * 16)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in sides)
        self.to_rgb = nn.Conv2d(width, channels, 3, padding=1)

    def sample_z(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.randn(n, self.z_dim, generator=rng, device=rng.device)

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        modulate: Modulate = identity,
        draws: Draws | None = None,
        mixing: float = 0.0,
    ) -> Synthesis:
        latent = modulate(self.sites[0], z)
        if self.classes is not None:
            latent = latent + self.classes(labels)
        x = self.first(latent).unflatten(1, (-1, 4, 4))
        for site, conv in zip(self.sites[1:], self.convs, strict=True):
            x = F.interpolate(x, size=(site.resolution, site.resolution))
            x = modulate(site, F.relu(conv(x)))
        return Synthesis(torch.tanh(self.to_rgb(x)), z)


class PlainDiscriminator(Discriminator):
    """Images -> logits. Taps: the feature map at every side, after its leaky ReLU."""

    def __init__(self, options: Options, resolution: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.num_classes, self.resolution = num_classes, resolution
        width, sides = options.width, _sides(resolution)[::-1]
        self.taps = tuple(str(s) for s in sides)
        self.convs = nn.ModuleList(
            nn.Conv2d(width if i else channels, width, 4 if i else 3, stride=2 if i else 1, padding=1)
            for i in range(len(sides))
        )
        self.last = nn.Linear(width * 16, 1)
        self.classes = nn.Embedding(num_classes, width * 16) if num_classes else None

    def penultimate(self, images: Tensor, *, taps: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        x, seen = images, dict[str, Tensor]()
        for name, conv in zip(self.taps, self.convs, strict=True):
            x = F.leaky_relu(conv(x), 0.2)
            seen[name] = x
        return x.flatten(1), {name: seen[name] for name in taps}

    def logits_of(self, h: Tensor, labels: Tensor | None = None) -> Tensor:
        logits = self.last(h).squeeze(1)
        if self.classes is not None:
            logits = logits + (self.classes(labels) * h).sum(1)
        return logits.float()

    def last_layer(self, labels: Tensor | None = None) -> Last:
        weight = self.last.weight
        return Last(weight if self.classes is None else weight + self.classes(labels), self.last.bias)
