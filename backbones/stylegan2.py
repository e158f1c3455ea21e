"""StyleGAN2: skip generator with demodulated convolutions, resnet or plain discriminator.

Written from "Analyzing and Improving the Image Quality of StyleGAN" (equations cited) and
the configurations in the appendix of "Training GANs with Limited Data" (ADA). Parameters
carry the names of the published checkpoints; `own_name` tells the few exceptions.

Precision follows torch.autocast: without it all is float32. Under bfloat16 every
convolution uses it; under float16 only the `num_fp16_res` highest resolutions do, with
`conv_clamp` keeping them in range. Mapping, styles, demodulation and the last block of
the discriminator are float32 always.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

import backbones
from backbones import Draws, Last, Modulate, Site, Synthesis, identity
from backbones import _layers as L
from backbones._fir import setup_filter, upsample2d

EPOCH = 1
MOMENTS = False

D_MAPPING_LAYERS = 8


@dataclass(frozen=True)
class Options:
    """Channels at resolution r are min(channel_base // r, channel_max)."""

    z_dim: Annotated[int, ">= 1, <= 65536"] = 512
    w_dim: Annotated[int, ">= 1, <= 65536"] = 512
    mapping_layers: Annotated[int, ">= 1, <= 64"] = 8
    mapping_lr_mult: Annotated[float, "> 0"] = 0.01
    channel_base: Annotated[int, ">= 1, <= 16777216"] = 16384
    channel_max: Annotated[int, ">= 1, <= 65536"] = 512
    architecture: Literal["resnet", "orig"] = "resnet"  # of D; G is always the skip network
    mbstd_group: Annotated[int, ">= 1"] | None = 4  # None: the whole batch
    mbstd_channels: Annotated[int, ">= 0"] = 1  # 0: no minibatch standard deviation
    noise: Literal["random", "const", "none"] = "random"
    fused: Literal["never", "eval", "always"] = "never"  # fold the styles into one kernel per sample
    w_avg_beta: Annotated[float, ">= 0, < 1"] = 0.995
    conv_clamp: Annotated[float, "> 0"] | None = None  # 256 in the published recipes
    num_fp16_res: Annotated[int, ">= 0"] = 4  # the highest resolutions, which float16 is limited to


def check(options: Options, resolution: int, num_classes: int) -> None:
    """Raise ValueError("key: rule") if no network of that size can be made."""
    if resolution < 8 or resolution & (resolution - 1):
        raise ValueError(f"resolution: {resolution}: must be a power of two, at least 8; resize the images")
    if options.channel_base < resolution:
        raise ValueError(f"channel_base: {options.channel_base}: must be at least the resolution {resolution}")
    if options.mbstd_channels and _channels(options, 4) % options.mbstd_channels:
        raise ValueError(f"mbstd_channels: {options.mbstd_channels}: must divide the {_channels(options, 4)} of 4x4")


def build(
    options: Options, resolution: int, num_classes: int, channels: int = 3
) -> tuple["Generator", "Discriminator"]:
    """The pair; its weights are drawn from torch's global generator."""
    check(options, resolution, num_classes)
    g = Generator(options, resolution, num_classes, channels)
    return g, Discriminator(options, resolution, num_classes, channels)


def own_name(reference: str) -> str | None:
    """Name in a published checkpoint -> name in `state_dict()`; None for what is constant here."""
    return None if reference.endswith("resample_filter") else reference


def _channels(options: Options, resolution: int) -> int:
    return min(options.channel_base // resolution, options.channel_max)


def _half_from(options: Options, resolution: int) -> int:
    """The lowest resolution at which float16 may be used."""
    return 2 * resolution >> options.num_fp16_res


@contextmanager
def _precision(device: torch.device, allow_fp16: bool) -> Iterator[bool]:
    """Leave autocast as it is, but not to float16 unless allowed. Yields whether it is on."""
    kind = device.type
    on = torch.is_autocast_enabled(kind)
    if on and not allow_fp16 and torch.get_autocast_dtype(kind) == torch.float16:
        with torch.autocast(kind, enabled=False):
            yield False
    else:
        yield on


# ── generator ────────────────────────────────────────────────────────────────


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, optionally upsampling, then noise, bias and leaky ReLU."""

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(self, site: Site, out_channels: int, w_dim: int, up: int, clamp: float | None) -> None:
        super().__init__()
        self.site = site
        self.up = up
        self.clamp = clamp
        self.resolution = site.resolution * up
        self.affine = L.FullyConnected(w_dim, site.channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, site.channels, 3, 3))
        self.register_buffer("noise_const", torch.randn(self.resolution, self.resolution))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("resample_filter", setup_filter((1, 3, 3, 1)), persistent=False)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None, fused: bool) -> Tensor:
        gain = L.ACTIVATIONS["lrelu"].gain
        if noise is not None:
            noise = (noise * (self.noise_strength * gain)).to(x.dtype)
        x = L.modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            self.resample_filter,
            noise=noise,
            up=self.up,
            padding=1,
            gain=gain,
            flip_weight=self.up == 1,
            fused=fused,
        )
        return L.finish_(x, self.bias * gain, act="lrelu", clamp=self.clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to the image's channels, not demodulated."""

    def __init__(self, site: Site, channels: int, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.site = site
        self.clamp = clamp
        self.weight_gain = 1 / math.sqrt(site.channels)
        self.affine = L.FullyConnected(w_dim, site.channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(channels, site.channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor, fused: bool) -> Tensor:
        styles = self.affine(w) * self.weight_gain
        x = L.modulated_conv2d(x, self.weight, styles, demodulate=False, fused=fused)
        return L.finish_(x, self.bias, act="linear", clamp=self.clamp)


NoiseSource = Callable[[SynthesisLayer], Tensor | None]
"""The noise of a layer, [N or 1, 1, r, r] before its strength, or None."""


def no_noise(layer: SynthesisLayer) -> None:
    return None


class SynthesisBlock(nn.Module):
    """All layers of one resolution; reads as many w's as it has convolutions, plus one for `torgb`,
    which is the first w of the next block."""

    resample_filter: Tensor

    def __init__(
        self, options: Options, in_channels: int, resolution: int, image_channels: int, allow_fp16: bool
    ) -> None:
        super().__init__()
        channels, name = _channels(options, resolution), f"b{resolution}"
        self.allow_fp16 = allow_fp16
        self.first = resolution == 4
        if self.first:
            self.const = nn.Parameter(torch.randn(channels, 4, 4))
        else:
            site = Site(f"{name}.conv0", in_channels, resolution // 2)
            self.conv0 = SynthesisLayer(site, channels, options.w_dim, 2, options.conv_clamp)
        site = Site(f"{name}.conv1", channels, resolution)
        self.conv1 = SynthesisLayer(site, channels, options.w_dim, 1, options.conv_clamp)
        site = Site(f"{name}.torgb", channels, resolution)
        self.torgb = ToRGB(site, image_channels, options.w_dim, options.conv_clamp)
        self.register_buffer("resample_filter", setup_filter((1, 3, 3, 1)), persistent=False)

    @property
    def convs(self) -> list[SynthesisLayer]:
        return [self.conv1] if self.first else [self.conv0, self.conv1]

    @property
    def sites(self) -> list[Site]:
        return [*(conv.site for conv in self.convs), self.torgb.site]

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Tensor, modulate: Modulate, noise: NoiseSource, fused: bool
    ) -> tuple[Tensor, Tensor]:
        """Features and image of the resolution below (None in b4) -> those of this one; the image is float32."""
        with _precision(ws.device, self.allow_fp16) as half:
            if x is None:
                x = L.layout(self.const.expand(len(ws), -1, -1, -1))
            x = x if half else L.full(x)
            for conv, w in zip(self.convs, ws.unbind(1), strict=False):
                x = conv(L.layout(modulate(conv.site, x)), w, noise(conv), fused)
            rgb = self.torgb(L.layout(modulate(self.torgb.site, x)), ws[:, len(self.convs)], fused)
        rgb = L.full(rgb)
        if image is not None:
            with torch.autocast(image.device.type, enabled=False):
                rgb = rgb + upsample2d(image, self.resample_filter)
        return x, rgb


class SynthesisNetwork(nn.Module):
    """ws [N, num_ws, w_dim] -> images [N, C, R, R]."""

    def __init__(self, options: Options, resolution: int, channels: int = 3) -> None:
        super().__init__()
        self.fused = options.fused
        self.resolution = resolution
        for r in (2**i for i in range(2, resolution.bit_length())):
            allow_fp16 = r >= _half_from(options, resolution)
            self.add_module(f"b{r}", SynthesisBlock(options, _channels(options, r // 2), r, channels, allow_fp16))
        self.num_ws = sum(len(block.convs) for block in self.blocks) + 1

    @property
    def blocks(self) -> list[SynthesisBlock]:
        return [block for block in self.children() if isinstance(block, SynthesisBlock)]

    def forward(self, ws: Tensor, modulate: Modulate = identity, noise: NoiseSource = no_noise) -> Tensor:
        fused = self.fused == "always" or (self.fused == "eval" and not self.training)
        x = image = None
        first = 0
        for block in self.blocks:
            x, image = block(x, image, ws[:, first:], modulate, noise, fused)
            first += len(block.convs)
        assert image is not None
        return image


class Generator(backbones.Generator):
    """`mapping` and `synthesis` may also be called by themselves.

    Attributes for sampling, not part of the state: `psi` and `cutoff`, truncation of all or
    the first `cutoff` w's; `noise`, the source of noise. A training-mode forward moves
    `mapping.w_avg`.
    """

    LATENT = "latent"
    copied = ("mapping.w_avg",)

    def __init__(self, options: Options, resolution: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.z_dim = options.z_dim
        self.num_classes = num_classes
        self.resolution = resolution
        self.w_avg_beta = options.w_avg_beta
        self.psi = 1.0
        self.cutoff: int | None = None
        self.noise = options.noise
        self.mapping = L.Mapping(
            options.z_dim, num_classes, options.w_dim, options.mapping_layers, options.mapping_lr_mult
        )
        self.synthesis = SynthesisNetwork(options, resolution, channels)
        self.num_ws = self.synthesis.num_ws
        self.latent = Site(self.LATENT, options.z_dim, 0)
        self.sites = (self.latent, *(site for block in self.synthesis.blocks for site in block.sites))

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
        w = self.mapping(modulate(self.latent, z), labels)
        if self.training:
            backbones.follow(self.mapping.w_avg, w.detach().mean(0), 1 - self.w_avg_beta)
        ws = w[:, None].expand(-1, self.num_ws, -1)
        if mixing:
            ws = self._mix(ws, labels, modulate, draws("mixing") if draws else None, mixing)
        ws = self.truncate(ws)
        return Synthesis(self.synthesis(ws, modulate, self.noise_source(len(ws), draws)), ws)

    def truncate(self, ws: Tensor) -> Tensor:
        """w_avg + psi (w - w_avg), for the first `cutoff` w's."""
        if self.psi == 1:
            return ws
        short = self.mapping.w_avg.lerp(ws, self.psi)
        return short if self.cutoff is None else torch.cat([short[:, : self.cutoff], ws[:, self.cutoff :]], 1)

    def noise_source(self, n: int, draws: Draws | None) -> NoiseSource:
        """The noise of one forward pass: of its own for each sample, the stored one, or none."""
        if self.noise == "none":
            return no_noise
        if self.noise == "const":
            return lambda layer: layer.noise_const[None, None]
        rng = draws("noise") if draws else None

        def random(layer: SynthesisLayer) -> Tensor:
            r = layer.resolution
            return torch.randn(n, 1, r, r, generator=rng, device=layer.noise_const.device)

        return random

    def _mix(
        self, ws: Tensor, labels: Tensor | None, modulate: Modulate, rng: torch.Generator | None, probability: float
    ) -> Tensor:
        """With `probability`, all w's from a random layer on come from second latents (once for the batch)."""
        device = ws.device
        if torch.rand((), generator=rng, device=device) >= probability:
            return ws
        cutoff = int(torch.randint(1, self.num_ws, (), generator=rng, device=device))
        z = torch.randn(len(ws), self.z_dim, generator=rng, device=device)
        second = self.mapping(modulate(self.latent, z), labels)
        return torch.cat([ws[:, :cutoff], second[:, None].expand(-1, self.num_ws - cutoff, -1)], 1)


# ── discriminator ────────────────────────────────────────────────────────────


class DiscriminatorBlock(nn.Module):
    """Two 3x3 convolutions, the second halves the size; `skip` around them in the resnet."""

    def __init__(self, options: Options, resolution: int, from_channels: int, allow_fp16: bool) -> None:
        super().__init__()
        c, out, clamp = _channels(options, resolution), _channels(options, resolution // 2), options.conv_clamp
        self.allow_fp16 = allow_fp16
        self.fromrgb = L.Conv(from_channels, c, 1, act="lrelu", clamp=clamp) if from_channels else None
        self.conv0 = L.Conv(c, c, 3, act="lrelu", clamp=clamp)
        self.conv1 = L.Conv(c, out, 3, act="lrelu", clamp=clamp, down=2)
        self.skip = L.Conv(c, out, 1, bias=False, clamp=clamp, down=2) if options.architecture == "resnet" else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, c or the image's, r, r] -> [N, c', r / 2, r / 2]"""
        with _precision(x.device, self.allow_fp16) as half:
            x = L.layout(x if half else L.full(x))
            if self.fromrgb is not None:
                x = self.fromrgb(x)
            if self.skip is None:
                return self.conv1(self.conv0(x))
            root = math.sqrt(0.5)  # keeps the variance of the sum
            return self.conv1(self.conv0(x), gain=root) + self.skip(x, gain=root)


class Epilogue(nn.Module):
    """4x4 features -> [N, c]: minibatch standard deviation, convolution, a full layer; `out` is D's last, [N, c] ->
    [N, out]. Always float32."""

    def __init__(self, options: Options, out_features: int) -> None:
        super().__init__()
        c = _channels(options, 4)
        self.group, self.channels = options.mbstd_group, options.mbstd_channels
        self.conv = L.Conv(c + self.channels, c, 3, act="lrelu", clamp=options.conv_clamp)
        self.fc = L.FullyConnected(c * 16, c, act="lrelu")
        self.out = L.FullyConnected(c, out_features)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = L.full(x)
            if self.channels:
                x = L.minibatch_stddev(x, self.group, self.channels)
            return self.fc(self.conv(x).flatten(1))


class Discriminator(backbones.Discriminator):
    """Tap "r" is the output of the block that halves 2r to r. Conditional: the logit is the
    projection of the last features on the mapped label."""

    def __init__(self, options: Options, resolution: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.resolution = resolution
        self.sizes = [resolution >> i for i in range(resolution.bit_length() - 3)]  # R, R/2, ..., 8
        self.taps = tuple(str(r // 2) for r in reversed(self.sizes))
        for r in self.sizes:
            allow_fp16 = r >= _half_from(options, resolution)
            self.add_module(f"b{r}", DiscriminatorBlock(options, r, channels if r == resolution else 0, allow_fp16))
        width = _channels(options, 4)
        self.b4 = Epilogue(options, width if num_classes else 1)
        if num_classes:
            self.mapping = L.Mapping(0, num_classes, width, D_MAPPING_LAYERS, lr_mult=0.01)

    def penultimate(self, images: Tensor, *, taps: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        x, feats = images, {}
        for r in self.sizes:
            x = self.get_submodule(f"b{r}")(x)
            if str(r // 2) in taps:
                feats[str(r // 2)] = x
        return self.b4(x), feats

    def logits_of(self, h: Tensor, labels: Tensor | None = None) -> Tensor:
        out = self.b4.out(h)
        if not self.num_classes:
            return out.squeeze(1)
        return (out * self.mapping(None, labels)).sum(1) / math.sqrt(out.shape[1])

    def last_layer(self, labels: Tensor | None = None) -> Last:
        out = self.b4.out
        assert out.bias is not None
        weight, bias = out.weight * out.weight_gain, out.bias * out.lr_mult
        if not self.num_classes:
            return Last(weight, bias)
        class_ = self.mapping(None, labels) / math.sqrt(len(weight))
        return Last(class_ @ weight, class_ @ bias)
