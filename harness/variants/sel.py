"""SEL, the spatial encoding layer (section 3.1, eq. 3): heatmaps modulate G's features.

    norm:   v F + w (phi_sigma(H) (F - mu(F)) / sigma(F) + phi_mu(H))
    concat: v F + w W [F; phi(H)]

Defaults are the paper's text, `PROFILES["release"]` is the released code, `PROFILES["berfscene"]` the SEL of a later
work of the same circle; docs/method.md compares them choice by choice.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones import Modulate, Site
from harness.errors import UserError
from harness.method.generator import Encoder, Heatmaps
from harness.method.heatmaps import RELEASE, HeatmapOptions, Resize, channels, resize, sample
from harness.variants._scaled import Scaled

EPOCH = 1


@dataclass(frozen=True)
class Options:
    profile: Literal["paper", "release", "berfscene"] = "paper"
    norm: Literal["norm", "concat"] = "norm"  # SEL_norm (eq. 3) or SEL_concat
    placement: Literal["levels", "everywhere"] = "levels"  # one site a level, or every site of G
    levels: tuple[int, ...] | None = None  # heatmap levels that are encoded; None: all of them
    regions: Literal["sum", "separate"] = "sum"  # H as the sum of its regions, or a channel for each
    heatmap_encoder: tuple[Annotated[int, ">= 1, <= 65536"], ...] = ()  # widths of 3x3 convs on H before any SEL
    resize: Resize = "centers"  # of heatmap features whose size is not the site's
    hidden: Annotated[int, ">= 1, <= 65536"] = 64  # width of phi
    kernel: Literal[3, 1] = 3  # side of phi's convs
    activation: Literal["leaky_relu", "relu"] = "leaky_relu"  # within phi; the leaky one with gain sqrt(2)
    channels: Literal["one", "all"] = "one"  # of phi_sigma and phi_mu: one for all of F's (eq. 3), or one for each
    one_plus_sigma: bool = False  # (1 + phi_sigma) instead of phi_sigma
    output_conv: bool = False  # leaky ReLU and a 3x3 conv C -> C behind the modulation
    residual: bool = True
    branch_weight: float = 1.0  # w
    skip_weight: float = 1.0  # v, of the residual
    zero_init: bool = True  # the branch starts at 0: with `residual`, G starts as the baseline
    equalized_lr: bool = True  # False suits backbones with plain layers (SN-DCGAN)
    heatmaps: HeatmapOptions = field(default_factory=HeatmapOptions)

    def __post_init__(self) -> None:
        drawn = self.heatmaps.levels
        for level in self.levels or ():
            if drawn is not None and level not in drawn:
                raise ValueError(f"levels: {level}: must be among heatmaps.levels {list(drawn)}")


PROFILES = {
    "paper": {},
    "release": {
        "placement": "everywhere",
        "regions": "separate",
        "heatmap_encoder": [16, 32],
        "resize": "corners",
        "one_plus_sigma": True,
        "output_conv": True,
        "branch_weight": 0.1,
        "zero_init": False,
        "heatmaps": RELEASE,
    },
    "berfscene": {
        "resize": "corners",
        "hidden": 128,
        "kernel": 1,
        "activation": "relu",
        "channels": "all",
        "one_plus_sigma": True,
        "skip_weight": 0.1,
        "zero_init": False,
    },
}
PROVIDES = ("heatmaps",)
LEVELS = {"heatmaps": {"levels": None}}


def encoder(sites: tuple[Site, ...], resolution: int, options: Options) -> Encoder:
    """SELs at `sites` of a generator of images of `resolution`. UserError where a level has no site."""
    return SelEncoder(sites, resolution, options)


class SelLayer(nn.Module):
    """One SEL on features of `channels`, from heatmap features of `in_channels`."""

    def __init__(self, channels: int, in_channels: int, options: Options) -> None:
        super().__init__()
        self.options = options
        hidden, eq, k = options.hidden, options.equalized_lr, options.kernel
        zero = options.zero_init and not options.output_conv
        self.shared = Scaled(hidden, in_channels, k, k, equalized=eq)
        if options.norm == "norm":
            width = channels if options.channels == "all" else 1
            self.sigma = Scaled(width, hidden, k, k, equalized=eq, zero=zero)
            self.mu = Scaled(width, hidden, k, k, equalized=eq, zero=zero)
        else:
            self.merge = Scaled(channels, channels + hidden, 1, 1, equalized=eq, zero=zero)
        if options.output_conv:
            self.output = Scaled(channels, channels, 3, 3, equalized=eq, zero=options.zero_init)

    def branch(self, x: Tensor, h: Tensor) -> Tensor:
        """What SEL adds, before its weight: features x [N, C, r, r], heatmap features h [N, C', r, r]."""
        h = self.shared(h)
        h = h.relu() if self.options.activation == "relu" else _lrelu(h, 2**0.5)
        if self.options.norm == "norm":
            sigma = self.sigma(h) + 1 if self.options.one_plus_sigma else self.sigma(h)
            y = sigma * F.instance_norm(x) + self.mu(h)
        else:
            y = self.merge(torch.cat([x, h], dim=1))
        return self.output(_lrelu(y)) if self.options.output_conv else y

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """x [N, C, r, r] -> the same shape and dtype, computed in float32."""
        with torch.autocast(x.device.type, enabled=False):
            o = self.options
            y = o.branch_weight * self.branch(x.float(), h.float())
            skip = x if o.skip_weight == 1 else o.skip_weight * x
            return (skip + y if o.residual else y).to(x.dtype)


class HeatmapEncoder(nn.Sequential):
    """3x3 convs with leaky ReLU on the heatmap of one level; the last has gain 1, the others sqrt(2)."""

    def __init__(self, in_channels: int, widths: tuple[int, ...], equalized: bool) -> None:
        pairs = zip((in_channels, *widths), widths, strict=False)
        super().__init__(*(Scaled(o, i, 3, 3, equalized=equalized) for i, o in pairs))

    def forward(self, h: Tensor) -> Tensor:
        """[N, regions, r, r] -> [N, widths[-1], r, r]."""
        with torch.autocast(h.device.type, enabled=False):
            for i, conv in enumerate(self, start=1):
                h = _lrelu(conv(h), 1.0 if i == len(self) else 2**0.5)
            return h


class SelEncoder(Encoder):
    """The SELs of a generator with their heatmap sampler."""

    def __init__(self, sites: tuple[Site, ...], resolution: int, options: Options) -> None:
        super().__init__()
        self.options = options
        self.resolution = resolution
        self.reads = _placement(sites, options)
        counts = channels(options.heatmaps)
        widths = {k: n if options.regions == "separate" else 1 for k, n in counts.items()}
        self.encoders = nn.ModuleDict()
        if options.heatmap_encoder:
            used = sorted({level for levels in self.reads.values() for level in levels})
            for k in used:
                self.encoders[str(k)] = HeatmapEncoder(widths[k], options.heatmap_encoder, options.equalized_lr)
                widths[k] = options.heatmap_encoder[-1]
        self.layers = nn.ModuleDict(
            {
                _key(site): SelLayer(site.channels, sum(widths[k] for k in self.reads[site]), options)
                for site in self.reads
            }
        )

    def sample(self, n: int, rng: torch.Generator) -> Heatmaps:
        return sample(self.options.heatmaps, n, self.resolution, rng)

    def modulation(self, heatmaps: Heatmaps) -> Modulate:
        features = self.features(heatmaps)

        def modulate(site: Site, x: Tensor) -> Tensor:
            levels = self.reads.get(site)
            if levels is None:
                return x
            resized = [resize(features[k], x.shape[-1], self.options.resize) for k in levels]
            return self.layers[_key(site)](x, torch.cat(resized, dim=1))

        return modulate

    def features(self, heatmaps: Heatmaps) -> dict[int, Tensor]:
        """Per level what SEL reads: H itself, or the output of its heatmap encoder."""
        features = {}
        for level, h in heatmaps.items():
            h = h if self.options.regions == "separate" else h.sum(dim=1, keepdim=True)
            name = str(level)
            features[level] = self.encoders[name](h) if name in self.encoders else h
        return features


def _placement(sites: tuple[Site, ...], options: Options) -> dict[Site, tuple[int, ...]]:
    """Which sites take a SEL, and the levels each of them reads.

    `levels`: the first feature map of the level's resolution. `everywhere`: a block of a level's
    resolution reads that level, blocks finer than every level read all of them.
    """
    levels = options.levels or options.heatmaps.drawn
    maps = [site for site in sites if site.resolution]
    reads: dict[Site, tuple[int, ...]] = {}
    if options.placement == "everywhere":
        for site in maps:
            block = _block(site)
            if block in levels:
                reads[site] = (block,)
            elif block > max(levels):
                reads[site] = tuple(levels)
        missing = set(levels) - {_block(site) for site in maps}
    else:
        for site in maps:
            if site.resolution in levels and (site.resolution,) not in reads.values():
                reads[site] = (site.resolution,)
        missing = set(levels) - {site.resolution for site in maps}
    if missing:
        known = sorted({site.resolution for site in maps})
        raise UserError(
            f"variants.sel.levels: {min(missing)}: the generator has no feature map of that resolution; "
            f"choose among {known}"
        )
    return reads


def _block(site: Site) -> int:
    """Output resolution of the block that reads `site`: an upsampling layer `b8.conv0` reads 4x4 features."""
    name = re.match(r"b(\d+)\.", site.name)
    return int(name[1]) if name else site.resolution


def _key(site: Site) -> str:
    return site.name.replace(".", "_")


def _lrelu(x: Tensor, gain: float = 1.0) -> Tensor:
    return F.leaky_relu(x, 0.2) * gain


def reference_names(encoder: SelEncoder) -> dict[str, str]:
    """Our parameter names -> those of the released generator's `state_dict` (release profile, StyleGAN2)."""
    names = {}
    for level in encoder.encoders:
        for i in range(len(encoder.options.heatmap_encoder)):
            # The release numbers levels by D's blocks, which halve the resolution.
            names[f"encoders.{level}.{i}"] = f"synthesis.hm_conv{i}_b{2 * int(level)}"
    for site in encoder.reads:
        for ours, theirs in (("shared", "shared.0"), ("sigma", "sigma"), ("mu", "mu"), ("output", "output.1")):
            names[f"layers.{_key(site)}.{ours}"] = f"synthesis.{site.name}.sel.{theirs}"
    return {f"{a}.{p}": f"{b}.{p}" for a, b in names.items() for p in ("weight", "bias")}
