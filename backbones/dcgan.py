"""DCGAN (Radford, Metz & Chintala 2016, https://arxiv.org/abs/1511.06434): the negative control. Nothing bounds its D,
so its distance rises again where later networks hold theirs.

G:  z -> projected to 4x4 -> a 5x5 transposed convolution of stride 2 per doubling; batch normalisation and ReLU after
    all but the last, which ends in tanh.
D:  a 5x5 convolution of stride 2 per halving, leaky ReLU; batch normalisation after all but the first; the 4x4 map
    flattened into one logit.

Channels are 1024 at 4x4 and halve with each doubling of the side: figure 1 at 64x64, and at 32x32 the 256, 512 and
1024 maps of section 5.1 (28,672 = 1792 * 16 features). All weights N(0, 0.02).

Where we differ: the paper does not say how biases, gains and moments of batch normalisation start or move; here
they are torch's own (0, 1, share 0.1), and convolutions before a batch normalisation have no bias, which it would take
out. The paper is unconditional; with classes G's batch normalisation takes gain and bias by class (Dumoulin et al.
2017) and D projects the class on its last map (Miyato & Koyama 2018), as in sn_dcgan.
"""

import math
from dataclasses import dataclass
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import Draws, Generator, Modulate, Site, Synthesis, identity
from backbones._projection import Projected

EPOCH = 1
MOMENTS = True

_COARSEST = 1024  # channels at 4x4, at width 1


@dataclass(frozen=True)
class Options:
    z_dim: Annotated[int, ">= 1, <= 65536"] = 100  # uniform on [-1, 1)
    width: Annotated[float, "> 0, <= 64"] = 1.0  # multiplies every channel count of G and D
    d_slope: Annotated[float, ">= 0, < 1"] = 0.2  # of D's leaky ReLU


def check(options: Options, resolution: int, num_classes: int) -> None:
    """Raise ValueError where the networks can't be made."""
    if resolution not in (32, 64, 128):
        raise ValueError(f"resolution: {resolution}: dcgan makes 32, 64 or 128; resize the dataset")


def build(
    options: Options, resolution: int, num_classes: int, channels: int = 3
) -> tuple["DCGANGenerator", "DCGANDiscriminator"]:
    """G and D with initial weights N(0, 0.02) from torch's global generator."""
    check(options, resolution, num_classes)
    g = DCGANGenerator(options, resolution, num_classes, channels)
    return g, DCGANDiscriminator(options, resolution, num_classes, channels)


def _maps(options: Options, resolution: int) -> list[tuple[int, int]]:
    """(side, channels) of the feature maps of either network, coarsest first: from 4 to half the image's side."""
    sides = [4 << i for i in range(int(math.log2(resolution // 4)))]
    return [(side, max(1, round(options.width * _COARSEST * 4 / side))) for side in sides]


def _init(layer: nn.Module) -> nn.Module:
    nn.init.normal_(cast(Tensor, layer.weight), 0.0, 0.02)
    if isinstance(bias := getattr(layer, "bias", None), Tensor):
        nn.init.zeros_(bias)
    return layer


class _Norm(nn.Module):
    """Batch normalisation of [N, C, H, W]; with classes, gain and bias are looked up per class."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, affine=num_classes == 0)
        if num_classes:
            self.gain, self.bias = nn.Embedding(num_classes, channels), nn.Embedding(num_classes, channels)
            nn.init.ones_(self.gain.weight)
            nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        x = self.bn(x)
        if labels is None:
            return x
        return torch.addcmul(self.bias(labels)[:, :, None, None], x, self.gain(labels)[:, :, None, None])


class DCGANGenerator(Generator):
    """z [N, z_dim] in [-1, 1) -> images [N, C, R, R] in (-1, 1).

    Sites: "latent" (z itself), then "4", "8", ... to half the image's side: the map of that side after its ReLU.
    """

    def __init__(self, options: Options, resolution: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.z_dim, self.num_classes, self.resolution = options.z_dim, num_classes, resolution
        maps = _maps(options, resolution)
        widths = [c for _, c in maps]
        self.project = _init(nn.Linear(options.z_dim, widths[0] * 16, bias=False))
        self.norm = nn.ModuleList(_Norm(c, num_classes) for c in widths)
        self.up = nn.ModuleList(
            _init(nn.ConvTranspose2d(c, o, 5, stride=2, padding=2, output_padding=1, bias=k == len(maps)))
            for k, (c, o) in enumerate(zip(widths, [*widths[1:], channels], strict=True), start=1)
        )
        self.sites = (Site("latent", options.z_dim, 0), *(Site(str(s), c, s) for s, c in maps))

    def sample_z(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.rand(n, self.z_dim, generator=rng, device=rng.device) * 2 - 1

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
        x = self.project(modulate(self.sites[0], z)).unflatten(1, (-1, 4, 4))
        for site, norm, up in zip(self.sites[1:], self.norm, self.up, strict=True):
            x = up(modulate(site, F.relu(norm(x, labels))))
        return Synthesis(torch.tanh(x), z)


class DCGANDiscriminator(Projected):
    """images [N, C, R, R] -> raw logits [N]. Tap "r" is the feature map of side r, after its leaky ReLU."""

    def __init__(self, options: Options, resolution: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.num_classes, self.resolution, self.slope = num_classes, resolution, options.d_slope
        maps = _maps(options, resolution)[::-1]
        widths = [c for _, c in maps]
        self.down = nn.ModuleList(
            _init(nn.Conv2d(i, o, 5, stride=2, padding=2, bias=k == 0))
            for k, (i, o) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.norm = nn.ModuleList(nn.BatchNorm2d(c) for c in widths[1:])
        self.linear = _init(nn.Linear(widths[-1] * 16, 1))
        if num_classes:
            self.embed = _init(nn.Embedding(num_classes, widths[-1]))
        self.taps = tuple(str(s) for s, _ in maps)

    def penultimate(self, images: Tensor, *, taps: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        feats: dict[str, Tensor] = {}
        x = images
        for i, (tap, down) in enumerate(zip(self.taps, self.down, strict=True)):
            x = down(x)
            x = F.leaky_relu(self.norm[i - 1](x) if i else x, self.slope)
            if tap in taps:
                feats[tap] = x
        return x.flatten(1), feats
