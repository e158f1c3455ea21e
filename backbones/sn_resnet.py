"""SNGAN-ResNet: the residual networks of the spectral-normalisation paper (Miyato et al. 2018, tables 3 and 4 of
https://arxiv.org/abs/1802.05957); conditional as in the projection paper (Miyato & Koyama 2018,
https://arxiv.org/abs/1802.05637).

G:  z -> linear to the coarsest map -> one block per doubling: BN, ReLU, up, 3x3, BN, ReLU, 3x3, and up, 1x1 beside
    it -> BN, ReLU, 3x3, tanh.
D:  blocks ReLU, 3x3, ReLU, 3x3 with a shortcut (the first without its leading ReLU), some with average pooling behind
    -> ReLU, sum over pixels, linear; spectral norm everywhere, and no batch normalisation.

Conditional: class-conditional batch normalisation in G's blocks, a projection in D. By default G unpools by
nearest neighbours, D's shortcut reads what comes into the block and its last layer has no bias, as the authors'
networks; weights of kwotsin/mimicry need `upsample: bilinear`, `relu_shortcut: true` and `last_bias: true`.

Where we differ: the pairs of spectral norm start after 15 iterations instead of at random, and biases as torch's layers
start theirs. 64x64, which the papers lack, is the network of 48x48 from 4x4 on with one doubling more.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import Discriminator, Draws, Generator, Last, Modulate, Site, Synthesis, identity
from backbones._spectral import SpectralVFirst, spectral

EPOCH = 1
MOMENTS = True
OWN_LEVELS = True


@dataclass(frozen=True)
class Options:
    """Channels, and which blocks of D halve the side, are the papers' for 32, 48 and 64 unless they are given."""

    z_dim: Annotated[int, ">= 1, <= 65536"] = 128
    width: Annotated[float, "> 0, <= 64"] = 1.0  # multiplies every channel count of G and D
    g_channels: tuple[Annotated[int, ">= 1, <= 65536"], ...] | None = None  # of G's maps from the coarsest on
    d_channels: tuple[Annotated[int, ">= 1, <= 65536"], ...] | None = None  # of D's blocks from the image on
    d_down: tuple[bool, ...] | None = None  # which of D's blocks halve the side
    upsample: Literal["nearest", "bilinear"] = "nearest"  # of G; bilinear: mimicry's
    relu_shortcut: bool = False  # D's shortcuts read ReLU(input) from the second block on: mimicry's
    last_bias: bool = False  # of D's last layer: mimicry's has one
    norm_eps: Annotated[float, "> 0"] = 1e-5  # added to variances in G's batch normalisation
    norm_momentum: Annotated[float, "> 0, <= 1"] = 0.1  # the share of this pass in its running moments


class Layout(NamedTuple):
    """Channels of G's maps, coarsest first, each twice as fine as the one before; of D's blocks; which of them halve
    the side."""

    g: tuple[int, ...]
    d: tuple[int, ...]
    down: tuple[bool, ...]


LAYOUTS = {
    32: Layout((256,) * 4, (128,) * 4, (True, True, False, False)),
    48: Layout((512, 256, 128, 64), (64, 128, 256, 512, 1024), (True, True, True, True, False)),
    64: Layout((1024, 512, 256, 128, 64), (64, 128, 256, 512, 1024), (True, True, True, True, False)),
}


def check(options: Options, resolution: int, num_classes: int) -> None:
    """Raise ValueError where the networks can't be made."""
    given = (options.g_channels, options.d_channels, options.d_down)
    if resolution not in LAYOUTS and None in given:
        known = ", ".join(map(str, LAYOUTS))
        raise ValueError(
            f"resolution: {resolution}: sn_resnet knows channels for {known}; resize the dataset, or give g_channels, "
            "d_channels and d_down"
        )
    g, d, down = layout(options, resolution)
    if len(down) != len(d):
        raise ValueError(f"d_down: {list(down)}: must have an entry for each of the {len(d)} blocks of D")
    for name, halvings in (("g_channels", len(g) - 1), ("d_down", sum(down))):
        if halvings < 0 or not d or resolution % 2**halvings:
            raise ValueError(f"{name}: halves {resolution} {halvings} times: must leave whole pixels; give fewer")


def build(
    options: Options, resolution: int, num_classes: int, channels: int = 3
) -> tuple["SNResNetGenerator", "SNResNetDiscriminator"]:
    """G and D with Glorot-uniform weights from torch's global generator."""
    check(options, resolution, num_classes)
    g = SNResNetGenerator(options, resolution, num_classes, channels)
    return g, SNResNetDiscriminator(options, resolution, num_classes, channels)


def own_name(reference: str) -> str:
    """Name in mimicry's `state_dict`, of G or of D -> name in ours."""
    name = re.sub(r"^l_y\.", "embed.", re.sub(r"^l\d+\.", "linear.", reference))
    name = re.sub(r"^c\d+\.", "to_rgb.", re.sub(r"^b\d+\.", "norm.", name))
    name = name.replace(".weight_orig", ".parametrizations.weight.original")
    return re.sub(r"\.weight_([uv])$", r".parametrizations.weight.0._\1", name)


def layout(options: Options, resolution: int) -> Layout:
    """That of the options at `resolution`, `width` in it."""
    usual = LAYOUTS.get(resolution, Layout((), (), ()))
    g, d = (
        tuple(max(1, round(options.width * c)) for c in (own if given is None else given))
        for given, own in ((options.g_channels, usual.g), (options.d_channels, usual.d))
    )
    return Layout(g, d, usual.down if options.d_down is None else options.d_down)


def _sides(options: Options, resolution: int) -> tuple[list[int], list[int]]:
    """Of G's maps, coarsest first, and of what D's blocks give, finest first."""
    g, _, down = layout(options, resolution)
    return [resolution >> i for i in reversed(range(len(g)))], [
        resolution >> sum(down[: i + 1]) for i in range(len(down))
    ]


def _glorot(layer: nn.Module, gain: float = 1.0) -> nn.Module:
    nn.init.xavier_uniform_(cast(Tensor, layer.weight), gain)
    return layer


def _conv3(before: int, after: int, gain: float = 2**0.5) -> nn.Module:
    return _glorot(nn.Conv2d(before, after, 3, padding=1), gain)


# ── generator ────────────────────────────────────────────────────────────────


class ConditionalNorm(nn.Module):
    """Batch normalisation of [N, C, H, W], then scale and shift by class: the two halves of an embedding's row."""

    def __init__(self, channels: int, num_classes: int, options: Options) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=options.norm_eps, momentum=options.norm_momentum, affine=False)
        self.embed = nn.Embedding(num_classes, 2 * channels)
        nn.init.normal_(self.embed.weight[:, :channels], 1.0, 0.02)
        nn.init.zeros_(self.embed.weight[:, channels:])

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        scale, shift = self.embed(labels)[..., None, None].chunk(2, 1)
        return torch.addcmul(shift, self.bn(x), scale)


def _norm(channels: int, num_classes: int, options: Options) -> nn.Module:
    if num_classes:
        return ConditionalNorm(channels, num_classes, options)
    return nn.BatchNorm2d(channels, eps=options.norm_eps, momentum=options.norm_momentum)


class UpBlock(nn.Module):
    """[N, before, s, s] -> [N, after, 2s, 2s]."""

    def __init__(self, before: int, after: int, num_classes: int, options: Options) -> None:
        super().__init__()
        self.mode = options.upsample
        self.b1, self.c1 = _norm(before, num_classes, options), _conv3(before, after)
        self.b2, self.c2 = _norm(after, num_classes, options), _conv3(after, after)
        self.c_sc = _glorot(nn.Conv2d(before, after, 1))

    def up(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode=self.mode, align_corners=None if self.mode == "nearest" else False)

    def forward(self, x: Tensor, labels: tuple[Tensor, ...]) -> Tensor:
        h = self.c1(self.up(F.relu(self.b1(x, *labels))))
        h = self.c2(F.relu(self.b2(h, *labels)))
        return h + self.up(self.c_sc(x))  # pixel by pixel, so it may come before the upsampling, on a quarter of them


class SNResNetGenerator(Generator):
    """z [N, z_dim], normal -> images [N, C, R, R] in (-1, 1).

    Sites: "latent" (z itself), then by their side ("4", "8", ...) the coarsest map and the sum that each block gives.
    Layers are numbered as in mimicry: the linear one is the first, so blocks begin with 2.
    """

    def __init__(self, options: Options, resolution: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.z_dim, self.num_classes, self.resolution = options.z_dim, num_classes, resolution
        widths, (sides, _) = layout(options, resolution).g, _sides(options, resolution)
        self.linear = _glorot(nn.Linear(options.z_dim, widths[0] * sides[0] ** 2))
        for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False), start=2):
            self.add_module(f"block{i}", UpBlock(before, after, num_classes, options))
        self.norm = _norm(widths[-1], 0, options)
        self.to_rgb = _conv3(widths[-1], channels, gain=1.0)
        self.sites = (
            Site("latent", options.z_dim, 0),
            *(Site(str(s), c, s) for s, c in zip(sides, widths, strict=True)),
        )

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
        assert labels is not None or not self.num_classes, "a conditional G needs labels"
        known = (labels,) if self.num_classes and labels is not None else ()
        latent, coarsest, *finer = self.sites
        side = coarsest.resolution
        x = modulate(coarsest, self.linear(modulate(latent, z)).unflatten(1, (-1, side, side)))
        for i, site in enumerate(finer, start=2):
            x = modulate(site, self.get_submodule(f"block{i}")(x, known))
        return Synthesis(torch.tanh(self.to_rgb(F.relu(self.norm(x)))), z)


# ── discriminator ────────────────────────────────────────────────────────────


class DownBlock(nn.Module):
    """[N, before, s, s] -> [N, after, s, s], or half of s where it is `down`. The `first` reads the image: no ReLU
    before it, and its hidden width is that of its output."""

    def __init__(self, before: int, after: int, down: bool, first: bool, relu_shortcut: bool) -> None:
        super().__init__()
        self.down, self.first, self.relu_shortcut = down, first, relu_shortcut and not first
        hidden = after if first else before
        self.c1 = spectral(_conv3(before, hidden), SpectralVFirst)
        self.c2 = spectral(_conv3(hidden, after), SpectralVFirst)
        if down or before != after:
            self.c_sc = spectral(_glorot(nn.Conv2d(before, after, 1)), SpectralVFirst)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.first else F.relu(x)
        beside = h if self.relu_shortcut else x
        h = self.c2(F.relu(self.c1(h)))
        if self.down:  # a 1x1 convolution and pooling commute; this order has a quarter of the pixels
            h, beside = F.avg_pool2d(h, 2), F.avg_pool2d(beside, 2)
        return h + (self.c_sc(beside) if hasattr(self, "c_sc") else beside)


class SNResNetDiscriminator(Discriminator):
    """images [N, C, R, R] -> raw logits [N]. Tap "r" is the sum that the last block of side r gives: at 32x32 "16" is
    that of the first block, "8" that of the fourth."""

    def __init__(self, options: Options, resolution: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.num_classes, self.resolution = num_classes, resolution
        (_, widths, down), (of_g, sides) = layout(options, resolution), _sides(options, resolution)
        for i, after in enumerate(widths):
            before = widths[i - 1] if i else channels
            self.add_module(f"block{i + 1}", DownBlock(before, after, down[i], i == 0, options.relu_shortcut))
        self.linear = spectral(_glorot(nn.Linear(widths[-1], 1, bias=options.last_bias)), SpectralVFirst)
        if num_classes:
            self.embed = spectral(_glorot(nn.Embedding(num_classes, widths[-1])), SpectralVFirst)
        self._sides = tuple(map(str, sides))
        self.taps = tuple(dict.fromkeys(self._sides))
        self.levels = tuple(s for s in of_g if s in sides and s < resolution)[:3]

    def penultimate(self, images: Tensor, *, taps: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        feats: dict[str, Tensor] = {}
        x = images
        for i, side in enumerate(self._sides, start=1):
            x = self.get_submodule(f"block{i}")(x)
            if side in taps:
                feats[side] = x
        return F.relu(x).sum((2, 3)), feats

    def logits_of(self, h: Tensor, labels: Tensor | None = None) -> Tensor:
        logits = self.linear(h).squeeze(1)
        if self.num_classes:
            assert labels is not None, "a conditional D needs labels"
            logits = logits + (self.embed(labels) * h).sum(1)
        return logits.float()

    def last_layer(self, labels: Tensor | None = None) -> Last:
        weight, bias = cast(Tensor, self.linear.weight), cast(Tensor | None, self.linear.bias)
        none = weight.new_zeros(1) if bias is None else bias
        return Last(weight + self.embed(labels) if self.num_classes else weight, none)
