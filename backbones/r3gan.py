"""R3GAN, config E: two plain ResNeXt-like networks without normalisation, styles or noise (Huang et al. 2024, "The GAN
is dead; long live the GAN! A Modern GAN Baseline", https://arxiv.org/abs/2501.05441).

G:  learnable 4x4 basis, scaled per channel by a linear function of [z, class embedding]; per resolution two residual
    blocks; between two a 1x1 convolution where widths differ, then FIR upsampling; a 1x1 convolution to the image.
D:  the same backwards (FIR downsampling, then the 1x1 convolution); a depth-wise 4x4 convolution, a linear layer.
    Conditional: the product of that with an embedding of the class.

Block: x + W3 f(W2 f(W1 x + b1) + b2), f leaky ReLU 0.2; W1, W3 are 1x1 (C to 2C and back), W2 3x3 in groups. W3 starts
at 0 and the two before it small by the depth (Fix-up, Zhang et al. 2019): a network starts as if it had no blocks.

The recipe's loss is the variant `relativistic`. Precision follows torch.autocast in the `half_stages` highest
resolutions of G and D (bf16; fp16 is said to cripple it) and is float32 below them and in D's last layer.

Where we differ: nothing is known to. Stages are at 4, 8, ..., R; the published ones end at 32, 64 and 256.
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import backbones
from backbones import Draws, Last, Modulate, Site, Synthesis, identity
from backbones._fir import downsample2d, setup_filter, upsample2d

EPOCH = 1
MOMENTS = False

SLOPE = 0.2  # of the leaky ReLU, whose gain is 1
BLOCKS = 2  # of a stage
GROUP_WIDTH = 16
TAPS = (1, 3, 3, 1)  # of the resampling filter

Width = Annotated[int, ">= 1, <= 65536"]


@dataclass(frozen=True)
class Options:
    """One width for each resolution from 4x4 up, for G and, backwards, for D: 4 of them at 32x32."""

    z_dim: Width = 64
    embed_dim: Width = 64  # of G's class embedding; D's is as wide as its 4x4 features
    widths: tuple[Width, ...] = (768, 768, 768, 768)
    groups: tuple[Width, ...] | None = None  # of the 3x3 convolutions, by stage; None: 16 channels each
    half_stages: Annotated[int, ">= 0"] = 3  # the highest resolutions, which half precision is limited to


def check(options: Options, resolution: int, num_classes: int) -> None:
    """Raise ValueError("key: rule") if no network of that size can be made."""
    if resolution < 8 or resolution & (resolution - 1):
        raise ValueError(f"resolution: {resolution}: must be a power of two, at least 8; resize the images")
    sides = _sides(resolution)
    if len(options.widths) != len(sides):
        raise ValueError(
            f"widths: {list(options.widths)}: must be {len(sides)} for {resolution}x{resolution}, "
            f"those of {', '.join(map(str, sides))}"
        )
    if options.groups is not None and len(options.groups) != len(sides):
        raise ValueError(f"groups: {list(options.groups)}: must be {len(sides)}, one for each of the widths; or null")
    for width, groups in zip(options.widths, _groups(options), strict=True):
        if options.groups is None and 2 * width % GROUP_WIDTH:
            raise ValueError(f"widths: {width}: must be a multiple of {GROUP_WIDTH // 2}; or set groups")
        if 2 * width % groups:
            raise ValueError(f"groups: {groups}: must divide {2 * width}, twice the width of its stage")


def build(
    options: Options, resolution: int, num_classes: int, channels: int = 3
) -> tuple["Generator", "Discriminator"]:
    """The pair; its weights are drawn from torch's global generator."""
    check(options, resolution, num_classes)
    g = Generator(options, resolution, num_classes, channels)
    return g, Discriminator(options, resolution, num_classes, channels)


_WORDS = (  # of published names, in turn, and ours
    (r"\.weight", ""), (r"\.Layer$", ""), (r"EmbeddingLayer", "embed"),
    (r"AggregationLayer", "to_rgb"), (r"ExtractionLayer", "from_rgb"), (r"NonLinearity(\d)\.Bias", r"bias\1"),
    (r"LinearLayer(\d)", r"weight\1"), (r"MainLayers", "stages"), (r"Layers", "layers"), (r"Basis", "basis"),
    (r"LinearLayer", "linear"),
)  # fmt: skip


def own_name(reference: str) -> str | None:
    """Name in a published checkpoint -> name in `state_dict()`; None for what is constant here."""
    name = reference
    for theirs, ours in _WORDS:
        name = re.sub(theirs, ours, name)
    return None if name.endswith("Resampler.Kernel") else name


def _sides(resolution: int) -> list[int]:
    return [4 << i for i in range(resolution.bit_length() - 2)]


def _groups(options: Options) -> tuple[int, ...]:
    return options.groups or tuple(max(1, 2 * width // GROUP_WIDTH) for width in options.widths)


def _normal(*shape: int, gain: float = 1.0) -> nn.Parameter:
    """A weight [out, in, ...] from N(0, gain^2 / fan-in)."""
    return nn.Parameter(torch.randn(shape) * (gain / math.sqrt(math.prod(shape[1:]))))


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **how: int) -> Tensor:
    """A convolution in the precision of x."""
    return F.conv2d(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), **how)


def _one_hot(labels: Tensor | None, weight: Tensor) -> Tensor:
    """The class embedding [N, features] of weight [features, classes]."""
    if labels is None:
        raise ValueError("labels: missing; this network is conditional")
    return F.linear(F.one_hot(labels, weight.shape[1]).to(weight.dtype), weight)


class Block(nn.Module):
    """Residual block on [N, c, r, r]; `depth`: how many blocks its network has."""

    def __init__(self, channels: int, groups: int, depth: int) -> None:
        super().__init__()
        wide, self.groups = 2 * channels, groups
        gain = math.sqrt(2 / (1 + SLOPE**2)) * depth**-0.25
        self.weight1 = _normal(wide, channels, 1, 1, gain=gain)
        self.bias1 = nn.Parameter(torch.zeros(wide))
        self.weight2 = _normal(wide, wide // groups, 3, 3, gain=gain)
        self.bias2 = nn.Parameter(torch.zeros(wide))
        self.weight3 = nn.Parameter(torch.zeros(channels, wide, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(_conv(x, self.weight1, self.bias1), SLOPE)
        h = F.leaky_relu(_conv(h, self.weight2, self.bias2, padding=1, groups=self.groups), SLOPE)
        return x + _conv(h, self.weight3)


class Start(nn.Module):
    """[N, features] -> [N, c, 4, 4]"""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.randn(channels, 4, 4))
        self.linear = _normal(channels, features)

    def forward(self, x: Tensor) -> Tensor:
        return self.basis.to(x.dtype) * F.linear(x, self.linear.to(x.dtype))[:, :, None, None]


class End(nn.Module):
    """[N, c, 4, 4] -> [N, c]; `linear` is D's last layer."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.basis = _normal(channels, 1, 4, 4)
        self.linear = _normal(out, channels)

    def forward(self, x: Tensor) -> Tensor:
        return _conv(x, self.basis, groups=x.shape[1]).flatten(1)


class Up(nn.Module):
    """[N, before, r, r] -> [N, c, 2r, 2r]"""

    kernel: Tensor

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.linear = _normal(channels, before, 1, 1) if before != channels else None
        self.register_buffer("kernel", setup_filter(TAPS), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return upsample2d(x if self.linear is None else _conv(x, self.linear), self.kernel)


class Down(nn.Module):
    """[N, c, 2r, 2r] -> [N, after, r, r]"""

    kernel: Tensor

    def __init__(self, channels: int, after: int) -> None:
        super().__init__()
        self.linear = _normal(after, channels, 1, 1) if after != channels else None
        self.register_buffer("kernel", setup_filter(TAPS), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = downsample2d(x, self.kernel)
        return x if self.linear is None else _conv(x, self.linear)


class Stage(nn.Module):
    """What stands at one resolution. `allow_low`: whether autocast's precision is allowed there."""

    def __init__(self, allow_low: bool, *layers: nn.Module) -> None:
        super().__init__()
        self.allow_low = allow_low
        self.layers = nn.ModuleList(layers)

    def entered(self, x: Tensor, low: torch.dtype) -> Tensor:
        """x in the precision of this stage; `low`: autocast's."""
        return x.to(low) if self.allow_low else x.to(torch.promote_types(x.dtype, torch.float32))


def _low(x: Tensor) -> torch.dtype:
    """The precision that autocast asks for, that of x without it."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class Generator(backbones.Generator):
    """Sites: "latent" (z itself), then "4", "8", ...: the features that enter the first block of that resolution."""

    def __init__(self, options: Options, resolution: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.z_dim, self.num_classes, self.resolution = options.z_dim, num_classes, resolution
        sides, widths = _sides(resolution), options.widths
        self.embed = _normal(options.embed_dim, num_classes) if num_classes else None
        features = options.z_dim + (options.embed_dim if num_classes else 0)
        self.stages = nn.ModuleList()
        for i, (width, groups) in enumerate(zip(widths, _groups(options), strict=True)):
            enter = Up(widths[i - 1], width) if i else Start(features, width)
            blocks = [Block(width, groups, BLOCKS * len(sides)) for _ in range(BLOCKS)]
            self.stages.append(Stage(len(sides) - i <= options.half_stages, enter, *blocks))
        self.to_rgb = _normal(channels, widths[-1], 1, 1)
        maps = (Site(str(side), width, side) for side, width in zip(sides, widths, strict=True))
        self.sites = (Site("latent", options.z_dim, 0), *maps)

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
        low = _low(z)
        with torch.autocast(z.device.type, enabled=False):
            x = modulate(self.sites[0], z)
            if self.embed is not None:
                x = torch.cat([x, _one_hot(labels, self.embed)], 1)
            for stage, site in zip(self.stages, self.sites[1:], strict=True):
                assert isinstance(stage, Stage)
                enter, *blocks = stage.layers
                x = modulate(site, enter(stage.entered(x, low)))
                for block in blocks:
                    x = block(x)
            return Synthesis(_conv(x, self.to_rgb).to(z.dtype), z)


class Discriminator(backbones.Discriminator):
    """Tap "r": the features of that side behind its two blocks."""

    def __init__(self, options: Options, resolution: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.num_classes, self.resolution = num_classes, resolution
        sides, widths, groups = _sides(resolution)[::-1], options.widths[::-1], _groups(options)[::-1]
        self.taps = tuple(map(str, sides))
        self.from_rgb = _normal(widths[0], channels, 1, 1)
        self.stages = nn.ModuleList()
        for i, width in enumerate(widths):
            last = i == len(sides) - 1
            blocks = [Block(width, groups[i], BLOCKS * len(sides)) for _ in range(BLOCKS)]
            leave = End(width, width if num_classes else 1) if last else Down(width, widths[i + 1])
            self.stages.append(Stage(i < options.half_stages, *blocks, leave))
        self.embed = _normal(widths[-1], num_classes, gain=1 / math.sqrt(widths[-1])) if num_classes else None

    def penultimate(self, images: Tensor, *, taps: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        low, feats = _low(images), dict[str, Tensor]()
        with torch.autocast(images.device.type, enabled=False):
            x = images
            for tap, stage in zip(self.taps, self.stages, strict=True):
                assert isinstance(stage, Stage)
                x = stage.entered(x, low)
                if x.shape[2] == self.resolution:
                    x = _conv(x, self.from_rgb)
                *blocks, leave = stage.layers
                for block in blocks:
                    x = block(x)
                if tap in taps:
                    feats[tap] = x
                x = leave(x)
            return x.to(images.dtype), feats

    @property
    def _linear(self) -> Tensor:
        last = self.stages[-1]
        assert isinstance(last, Stage)
        end = last.layers[-1]
        assert isinstance(end, End)
        return end.linear

    def logits_of(self, h: Tensor, labels: Tensor | None = None) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            out = F.linear(h, self._linear)
            return out.squeeze(1) if self.embed is None else (out * _one_hot(labels, self.embed)).sum(1)

    def last_layer(self, labels: Tensor | None = None) -> Last:
        with torch.autocast(self._linear.device.type, enabled=False):
            weight = self._linear if self.embed is None else _one_hot(labels, self.embed) @ self._linear
        return Last(weight, weight.new_zeros(1))
