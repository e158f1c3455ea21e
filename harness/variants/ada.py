"""Adaptive discriminator augmentation (ADA; Karras et al. 2020, https://arxiv.org/abs/2006.06676): D sees reals and
fakes only through a pipeline of transforms, each applied with probability p, and p follows how far D overfits.

    every `interval` steps:    p <- max(0, p + sign(mean sign D(x) - target) * images since then / (1000 kimg))

Where we differ. D's logits of the reals of all its steps are counted, as it saw them, in all processes; p moves after
the whole step, R1 and G included, and is 32 bit wide. It has no upper bound, as in the authors' code: above 1
everything happens, and p takes its time to come back. Images keep their values outside of [-1, 1], and mirror exactly
as far as the authors' margin (which all images of a microbatch decide together), on a canvas of constant size, so that
nothing waits for the device. A sample that no transform of place met is left as it is, bit for bit, where the authors
send it through the filters. Reals and fakes draw numbers of their own. Default is the paper's choice, "bgc" (blit,
geometry, color); `filter`, `noise` and `cutout` are the rest of its pipeline, off by default as in the paper. What D
says when a trial is scored is of images as they are. With `align` only what leaves things in their places may act.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor

from harness.method import augment
from harness.method.hooks import DStep, Hooks, Kind, Memory, Term
from harness.method.schedules import Schedule, Scheduled, at
from harness.rng import Streams

EPOCH = 1

Part = Annotated[float, ">= 0, <= 1"]
Strength = Annotated[float, ">= 0"]


@dataclass(frozen=True)
class Options:
    control: Literal["adaptive", "given"] = "adaptive"
    p: Annotated[Scheduled, ">= 0"] = 0.0  # where the adaptive p begins; what a given one is, by a schedule if need be
    target: Annotated[float, ">= -1, <= 1"] = 0.6  # mean sign of D's logits of reals at which p stays
    interval: Annotated[int, ">= 1"] = 4  # steps between two moves of p
    kimg: Annotated[float, "> 0"] = 500.0  # in which p can move by 1
    # How likely each kind's transforms are, as parts of p.
    blit: Part = 1.0
    geometry: Part = 1.0
    color: Part = 1.0
    filter: Part = 0.0
    noise: Part = 0.0
    cutout: Part = 0.0
    # Strengths; `std`: of a normal number, which is the exponent of 2 for scale, aniso, contrast, saturation, filter.
    xint_max: Strength = 0.125  # translation by whole pixels, at most, in sides
    scale_std: Strength = 0.2
    rotate_max: Part = 1.0  # of half a turn, each way
    aniso_std: Strength = 0.2
    xfrac_std: Strength = 0.125  # translation by parts of pixels, in sides
    brightness_std: Strength = 0.2
    contrast_std: Strength = 0.5
    hue_max: Part = 1.0  # of half a turn, each way
    saturation_std: Strength = 1.0
    filter_std: Strength = 1.0
    noise_std: Strength = 0.1  # of the noise's own standard deviation, which is half-normal
    cutout_size: Part = 0.5  # side of the square that is erased, in sides

    def __post_init__(self) -> None:
        if self.control == "adaptive" and isinstance(self.p, Schedule):
            raise ValueError(f"p: {self.p}: an adaptive p begins at one number; for a schedule set control: given")
        if not any(getattr(self, kind) for kind in KINDS):
            raise ValueError(
                f"blit: 0: {', '.join(KINDS)} are all 0; one of them must be above, or leave the variant out"
            )


KINDS = ("blit", "geometry", "color", "filter", "noise", "cutout")
PLACE = ("blit", "geometry", "cutout")


class Source(NamedTuple):
    """What a transform draws: numbers a sample, uniform in [0, 1) or standard normal, and the kind it belongs to."""

    kind: str
    law: Literal["uniform", "normal"]
    width: int = 1


SOURCES = {  # in the paper's order
    "xflip": Source("blit", "uniform"),
    "rotate90": Source("blit", "uniform"),
    "xint": Source("blit", "uniform", 2),
    "scale": Source("geometry", "normal"),
    "rotate_before": Source("geometry", "uniform"),
    "aniso": Source("geometry", "normal"),
    "rotate_after": Source("geometry", "uniform"),
    "xfrac": Source("geometry", "normal", 2),
    "brightness": Source("color", "normal"),
    "contrast": Source("color", "normal"),
    "lumaflip": Source("color", "uniform"),
    "hue": Source("color", "uniform"),
    "saturation": Source("color", "normal"),
    "filter_0": Source("filter", "normal"),
    "filter_1": Source("filter", "normal"),
    "filter_2": Source("filter", "normal"),
    "filter_3": Source("filter", "normal"),
    "noise": Source("noise", "normal"),
    "cutout": Source("cutout", "uniform", 2),
}


class Drawn(NamedTuple):
    """A transform's numbers [width, N], and the uniform ones [N] that let it act where they are below its p."""

    values: Tensor
    gate: Tensor


Numbers = dict[str, Drawn]


def check(options: Options, others: Mapping[str, Any]) -> None:
    """Beside align nothing may change where things are."""
    for kind in PLACE:
        if "align" in others and getattr(options, kind):
            raise ValueError(
                f"{kind}: {getattr(options, kind):g}: moves what D sees from where align's heatmap is; "
                f"with align set {', '.join(PLACE)} to 0"
            )


def hooks(options: Options, resolution: int) -> "Ada":
    return Ada(options)


class Ada(Hooks):
    """`see` is `drawn` and `transformed`; `learn` moves p. Parts: `p`, and `sign`, the mean sign of the microbatch's
    real logits, both only looked at. The memory of an adaptive p: `p` itself, and of the steps since it moved the sum
    of `signs` over `images`."""

    def __init__(self, options: Options) -> None:
        self.options = options

    # ── p ──

    def memory(self) -> Memory:
        if self.options.control == "given":
            return {}
        return {"p": torch.tensor(at(self.options.p, 0)), "signs": torch.zeros(()), "images": torch.zeros(())}

    def p(self, nimg: int, memory: Memory) -> Tensor | float:
        return memory["p"] if self.options.control == "adaptive" else at(self.options.p, nimg)

    def learn(
        self, memory: Memory, real: Tensor, fake: Tensor, parts: dict[str, Tensor], shown: int, nimg: int
    ) -> Memory:
        if self.options.control == "given":
            return memory
        signs, images = memory["signs"] + real.sign().sum(), memory["images"] + shown
        if nimg // shown % self.options.interval:
            return {"p": memory["p"], "signs": signs, "images": images}
        direction = (signs.double() / images - self.options.target).sign()
        p = (memory["p"] + direction * images / (self.options.kimg * 1000)).clamp_min(0)
        return {"p": p.float(), "signs": torch.zeros_like(signs), "images": torch.zeros_like(images)}

    def d_term(self, step: DStep, memory: Memory) -> Term:
        real = step.real_logits.detach()
        p = torch.zeros((), device=real.device) + self.p(step.nimg, memory)
        return Term(torch.zeros_like(p), {"p": p, "sign": real.sign().mean()})

    # ── the pipeline ──

    def see(self, images: Tensor, draws: Streams, kind: Kind, nimg: int, memory: Memory) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return self.transformed(images, self.drawn(images, draws), self.p(nimg, memory))

    def drawn(self, images: Tensor, draws: Streams) -> Numbers:
        """Numbers of every transform, whichever act, so that none shifts those of another; and the noise itself."""
        n, device = len(images), images.device
        count = {law: sum(s.width for s in SOURCES.values() if s.law == law) for law in ("uniform", "normal")}
        rows = {
            "uniform": iter(torch.rand(count["uniform"], n, generator=draws("uniform"), device=device)),
            "normal": iter(torch.randn(count["normal"], n, generator=draws("normal"), device=device)),
        }
        gates = torch.rand(len(SOURCES), n, generator=draws("gates"), device=device)
        numbers = {
            name: Drawn(torch.stack([next(rows[source.law]) for _ in range(source.width)]), gate)
            for (name, source), gate in zip(SOURCES.items(), gates, strict=True)
        }
        if self.options.noise:
            pixels = torch.randn(images.shape, generator=draws("noise"), device=device)
            numbers["noise_pixels"] = Drawn(pixels, numbers["noise"].gate)
        return numbers

    def transformed(self, x: Tensor, numbers: Numbers, p: Tensor | float) -> Tensor:
        """Images [N, C, R, R], C = 1 or 3, by given numbers."""
        o, side = self.options, x.shape[-1]
        if o.blit or o.geometry:
            x = augment.warp(x, self.inverse(numbers, p, side))
        if o.color:
            x = augment.recolor(x, self.colors(numbers, p, x.shape[1]))
        if o.filter:
            x = augment.amplify(x, self.gains(numbers, p))
        if o.noise:
            (sigma,) = self.kept(numbers, p, "noise")
            x = x + (sigma.abs() * o.noise_std).view(-1, 1, 1, 1) * numbers["noise_pixels"].values
        if o.cutout:
            columns, rows = numbers["cutout"].values
            size = self.acts(numbers, p, "cutout") * o.cutout_size
            x = augment.erase(x, augment.near(rows, size, side), augment.near(columns, size, side))
        return x

    def acts(self, numbers: Numbers, p: Tensor | float, name: str) -> Tensor:
        """bool [N]: whom a transform meets."""
        likely = p * getattr(self.options, SOURCES[name].kind)
        if name.startswith("rotate_"):  # two in place of one, either of which turns the image
            likely = 1 - (1 - (torch.zeros_like(numbers[name].gate) + likely)).clamp(0, 1).sqrt()
        return numbers[name].gate < likely

    def kept(self, numbers: Numbers, p: Tensor | float, name: str, centre: float = 0.0) -> Tensor:
        """The numbers [width, N] less `centre`, 0 for whom the transform does not meet."""
        return torch.where(self.acts(numbers, p, name), numbers[name].values - centre, 0.0)

    def inverse(self, numbers: Numbers, p: Tensor | float, side: int) -> Tensor:
        """[N, 3, 3]: where in its image a pixel of the result comes from, each transform inverted behind the others."""
        o = self.options
        picked = {name: self.kept(numbers, p, name) for name in ("xflip", "rotate90", "scale", "aniso", "xfrac")}
        (flip,), (quarter,) = (picked["xflip"] * 2).floor(), (picked["rotate90"] * 4).floor()
        xint = (2 * self.kept(numbers, p, "xint", 0.5) * o.xint_max * side).round()
        scale, aniso = (torch.exp2(-picked[k][0] * std) for k, std in (("scale", o.scale_std), ("aniso", o.aniso_std)))
        turns = [
            augment.rotation(angle.cos(), angle.sin())
            for name in ("rotate_before", "rotate_after")
            for angle in 2 * self.kept(numbers, p, name, 0.5) * math.pi * o.rotate_max
        ]
        xfrac = picked["xfrac"] * o.xfrac_std * side
        inverse = augment.scaling(1 - 2 * flip, torch.ones_like(flip)) @ augment.rotation(*augment.quarters(quarter))
        inverse = inverse @ augment.translation(*-xint) @ augment.scaling(scale, scale)
        return inverse @ turns[0] @ augment.scaling(aniso, 1 / aniso) @ turns[1] @ augment.translation(*-xfrac)

    def colors(self, numbers: Numbers, p: Tensor | float, channels: int) -> Tensor:
        """[N, 4, 4]: what a pixel's colour becomes, each transform before the others. A grey image has no hue and no
        saturation."""
        o = self.options
        (light,), (strong,) = (self.kept(numbers, p, name) for name in ("brightness", "contrast"))
        flip = (self.kept(numbers, p, "lumaflip")[0] * 2).floor()
        colors = augment.stronger(torch.exp2(strong * o.contrast_std)) @ augment.lighter(light * o.brightness_std)
        colors = augment.negative(flip) @ colors
        if channels == 1:
            return colors
        (angle,) = 2 * self.kept(numbers, p, "hue", 0.5) * math.pi * o.hue_max
        (rich,) = self.kept(numbers, p, "saturation")
        return augment.richer(torch.exp2(rich * o.saturation_std)) @ augment.turned(angle) @ colors

    def gains(self, numbers: Numbers, p: Tensor | float) -> Tensor:
        """[N, 4]: how much each band is amplified; after each one all are scaled so that the expected power stays."""
        gains = torch.ones(len(numbers["filter_0"].gate), 4, device=numbers["filter_0"].gate.device)
        for band, power in enumerate(augment.POWER):
            (exponent,) = self.kept(numbers, p, f"filter_{band}") * self.options.filter_std
            gain = torch.exp2(exponent)
            total = (1 + power * (gain.square() - 1)).sqrt()  # of this gain beside three of 1
            gains = gains / total[:, None]
            gains[:, band] *= gain
        return gains
