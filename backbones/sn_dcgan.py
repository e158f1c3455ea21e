"""SN-DCGAN: the standard CNN of the spectral-normalisation paper (Miyato et al., 2018).

G:  z -> linear to 4x4 -> one 4x4 stride-2 transposed convolution per doubling -> 3x3 convolution, tanh;
    batch normalisation and ReLU after all but the last. Channels halve from 4x4 upwards.
D:  pairs of a 3x3 and a 4x4 stride-2 convolution, leaky ReLU, spectral norm everywhere.
    Layout A widens when it downsamples (the authors' companion code); layout B widens at the
    3x3 convolution after it (the table printed in the paper).

Conditional: class-conditional batch normalisation in G (Dumoulin et al., 2017), a projection
discriminator (Miyato & Koyama, 2018) in D. 64x64 images take one more stage in each network.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import Draws, Generator, Modulate, Site, Synthesis, identity
from backbones._projection import Projected
from backbones._spectral import spectral

EPOCH = 1
EPOCH_HALF = 2  # in half precision (1: power iteration was in half precision too, on a GPU)
MOMENTS = True

_BASE, _MAX = 64, 512  # channels at the image's resolution, and the most anywhere, at width 1


@dataclass(frozen=True)
class Options:
    z_dim: Annotated[int, ">= 1, <= 65536"] = 128
    latent: Literal["uniform", "normal"] = "uniform"  # uniform on [-1, 1), as the authors' code
    width: Annotated[float, "> 0, <= 64"] = 1.0  # multiplies every channel count of G and D
    d_layout: Literal["A", "B"] = "A"
    d_slope: Annotated[float, ">= 0, < 1"] = 0.1  # of D's leaky ReLU
    first_norm: Literal["map", "vector"] = "map"  # of G: channels of the 4x4 map, or each of its places by itself
    norm_eps: Annotated[float, "> 0"] = 1e-5  # added to variances in G's batch normalisation


def check(options: Options, resolution: int, num_classes: int) -> None:
    """Raise ValueError where the networks can't be made."""
    if resolution not in (32, 64, 128):
        raise ValueError(f"resolution: {resolution}: sn_dcgan makes 32, 64 or 128; resize the dataset")


def build(
    options: Options, resolution: int, num_classes: int, channels: int = 3
) -> tuple["SNDCGANGenerator", "SNDCGANDiscriminator"]:
    """G and D with initial weights N(0, 0.02) from torch's global generator."""
    check(options, resolution, num_classes)
    g = SNDCGANGenerator(options, resolution, num_classes, channels)
    return g, SNDCGANDiscriminator(options, resolution, num_classes, channels)


def _channels(resolution: int, at: int, width: float) -> int:
    """Channels of the feature map of side `at`: 64 at the image's side, doubling downwards to 512."""
    return max(1, round(width * min(_MAX, _BASE * resolution // at)))


def _init(layer: nn.Module) -> nn.Module:
    nn.init.normal_(layer.weight, 0.0, 0.02)  # type: ignore[arg-type]
    if getattr(layer, "bias", None) is not None:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class _Norm(nn.Module):
    """Batch normalisation of [N, channels, H, W], or where it is a `vector` of [N, channels]; with classes, its gain
    and bias are looked up per class."""

    def __init__(self, channels: int, num_classes: int, eps: float, vector: bool = False) -> None:
        super().__init__()
        kind = nn.BatchNorm1d if vector else nn.BatchNorm2d
        self.bn = kind(channels, eps=eps, affine=num_classes == 0)
        if num_classes:
            self.gain, self.bias = nn.Embedding(num_classes, channels), nn.Embedding(num_classes, channels)
            nn.init.ones_(self.gain.weight)
            nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        x = self.bn(x)
        if labels is None:
            return x
        places = (slice(None), slice(None), *(None for _ in x.shape[2:]))
        return torch.addcmul(self.bias(labels)[places], x, self.gain(labels)[places])


class SNDCGANGenerator(Generator):
    """z [N, z_dim] in [-1, 1) (or normal) -> images [N, C, R, R] in (-1, 1).

    Sites: "latent" (z itself), then "4", "8", "16", ...: the feature map of that side after its ReLU.
    """

    def __init__(self, options: Options, resolution: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.z_dim, self.num_classes, self.resolution = options.z_dim, num_classes, resolution
        self.latent = options.latent
        sides = [4 << i for i in range(int(math.log2(resolution // 4)) + 1)]
        widths = [_channels(resolution, s, options.width) for s in sides]
        self.linear = _init(nn.Linear(options.z_dim, widths[0] * 16, bias=False))
        self.up = nn.ModuleList(
            _init(nn.ConvTranspose2d(i, o, 4, stride=2, padding=1, bias=False))
            for i, o in zip(widths, widths[1:], strict=False)
        )
        self.vector = options.first_norm == "vector"
        first = widths[0] * 16 if self.vector else widths[0]
        self.norm = nn.ModuleList(
            _Norm(c, num_classes, options.norm_eps, vector=self.vector and not i)
            for i, c in enumerate([first, *widths[1:]])
        )
        self.to_rgb = _init(nn.Conv2d(widths[-1], channels, 3, padding=1))
        self.sites = (
            Site("latent", options.z_dim, 0),
            *(Site(str(s), c, s) for s, c in zip(sides, widths, strict=True)),
        )

    def sample_z(self, n: int, rng: torch.Generator) -> Tensor:
        if self.latent == "uniform":
            return torch.rand(n, self.z_dim, generator=rng, device=rng.device) * 2 - 1
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
        labels = labels if self.num_classes else None
        x = self.linear(modulate(self.sites[0], z))
        x = x if self.vector else x.unflatten(1, (-1, 4, 4))
        for i, site in enumerate(self.sites[1:]):
            x = self.norm[i](self.up[i - 1](x) if i else x, labels)
            x = x.unflatten(1, (-1, 4, 4)) if x.ndim == 2 else x
            x = modulate(site, F.relu(x))
        return Synthesis(torch.tanh(self.to_rgb(x)), z)


class SNDCGANDiscriminator(Projected):
    """images [N, C, R, R] -> raw logits [N]. Tap "r" is the last feature map of side r, after its leaky ReLU."""

    def __init__(self, options: Options, resolution: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.num_classes, self.resolution, self.slope = num_classes, resolution, options.d_slope
        stages = int(math.log2(resolution // 4))
        widths = [max(1, round(options.width * min(_MAX, _BASE << i))) for i in range(stages + 1)]
        self.conv, self.down = nn.ModuleList(), nn.ModuleList()
        for i, c in enumerate(widths):
            before = channels if i == 0 else (widths[i - 1] if options.d_layout == "B" else c)
            self.conv.append(spectral(_init(nn.Conv2d(before, c, 3, padding=1))))
            if i < stages:
                after = c if options.d_layout == "B" else widths[i + 1]
                self.down.append(spectral(_init(nn.Conv2d(c, after, 4, stride=2, padding=1))))
        self.linear = spectral(_init(nn.Linear(widths[-1] * 16, 1)))
        if num_classes:
            self.embed = spectral(_init(nn.Embedding(num_classes, widths[-1])))
        self.taps = tuple(str(resolution >> i) for i in range(stages + 1))

    def penultimate(self, images: Tensor, *, taps: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        feats: dict[str, Tensor] = {}
        x = images
        for i, tap in enumerate(self.taps):
            x = F.leaky_relu(self.conv[i](x), self.slope)
            if tap in taps:
                feats[tap] = x
            if i < len(self.down):
                x = F.leaky_relu(self.down[i](x), self.slope)
        return x.flatten(1), feats
