"""DiffAugment (Zhao et al. 2020, https://arxiv.org/abs/2006.10738): D sees reals and fakes through random
transforms T, in its own step and in G's, and G learns through T.

    D: f(-D(T(x))) + f(D(T(G(z))))       G: g(D(T(G(z))))

Where we differ. Reals and fakes, each pass and each microbatch draw numbers of their own, as in the paper; the
authors' strengths are the defaults. `policy` names the functions in the order in which they act; all of them is the
paper's for little data ("color" is its word for the first three), [translation, cutout] its choice for the whole of
CIFAR-10. R1 is taken at the images before T, through it (the authors' StyleGAN2 does the same). What D says when a
trial is scored, or attention measured, is of images as they are. With `align` only colours may move: elsewhere the
heatmap would not be where D looks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from harness.method import augment
from harness.method.hooks import Hooks, Kind, Memory
from harness.rng import Streams

EPOCH = 1

Function = Literal["color", "brightness", "saturation", "contrast", "translation", "cutout"]
Numbers = dict[str, tuple[Tensor, ...]]
"""By function: for a colour u [N] in [0, 1); for translation and cutout a row and a column [N], int64."""

COLOR = ("brightness", "saturation", "contrast")
PLACE = ("translation", "cutout")


@dataclass(frozen=True)
class Options:
    policy: tuple[Function, ...] = ("color", "translation", "cutout")
    brightness: Annotated[float, ">= 0"] = 0.5  # at most so much is added to all pixels
    saturation: Annotated[float, ">= 0"] = 1.0  # distances to the pixel's mean change by at most this part of them
    contrast: Annotated[float, ">= 0"] = 0.5  # and those to the image's mean
    translation: Annotated[float, ">= 0, <= 1"] = 0.125  # at most, in sides, each way
    cutout: Annotated[float, ">= 0, <= 1"] = 0.5  # side of the square that is erased, in sides

    def __post_init__(self) -> None:
        if not self.functions:
            raise ValueError(
                "policy: []: must name a function, like [color, translation, cutout]; or leave the variant out"
            )
        for function in self.functions:
            if self.functions.count(function) > 1:
                raise ValueError(f"policy: {list(self.policy)}: has {function} more than once; keep one")

    @property
    def functions(self) -> tuple[str, ...]:
        """The single functions in their order."""
        return tuple(one for word in self.policy for one in (COLOR if word == "color" else (word,)))


def check(options: Options, others: Mapping[str, Any]) -> None:
    """Beside align nothing may change where things are."""
    for function in PLACE:
        if "align" in others and function in options.functions and getattr(options, function):
            raise ValueError(
                f"policy: {list(options.policy)}: {function} moves what D sees from where align's heatmap is; "
                "with align use [color]"
            )


def hooks(options: Options, resolution: int) -> "DiffAugment":
    return DiffAugment(options)


class DiffAugment(Hooks):
    """`see` is `drawn` and `transformed`."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def see(self, images: Tensor, draws: Streams, kind: Kind, nimg: int, memory: Memory) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return self.transformed(images, self.drawn(images, draws))

    def drawn(self, images: Tensor, draws: Streams) -> Numbers:
        """A stream for each function, so that none draws the numbers of another, whatever the policy."""
        n, side, device = len(images), images.shape[-1], images.device
        numbers: Numbers = {}
        for name in self.options.functions:
            rng = draws(name)
            if name in COLOR:
                numbers[name] = (torch.rand(n, generator=rng, device=device),)
                continue
            reach, size = self.reach(side), self.size(side)
            low, high = (-reach, reach) if name == "translation" else (0, side - size % 2)
            numbers[name] = tuple(torch.randint(low, high + 1, (n,), generator=rng, device=device) for _ in range(2))
        return numbers

    def transformed(self, x: Tensor, numbers: Numbers) -> Tensor:
        """T of images [N, C, R, R] by given numbers; each function sees what the one before has left."""
        for name in self.options.functions:
            if name in COLOR:
                (u,) = numbers[name]
                x = _COLORS[name](x, (2 * u - 1) * getattr(self.options, name))
                continue
            rows, columns = numbers[name]
            side = x.shape[-1]
            if name == "translation":
                x = augment.shift(x, rows, columns, self.reach(side))
            else:
                size = self.size(side)
                x = augment.erase(x, *(augment.span(at - size // 2, size, side) for at in (rows, columns)))
        return x

    def reach(self, side: int) -> int:
        """The farthest translation, in pixels."""
        return int(side * self.options.translation + 0.5)

    def size(self, side: int) -> int:
        """Side of the square that cutout erases, in pixels; its middle may be anywhere."""
        return int(side * self.options.cutout + 0.5)


_COLORS = {"brightness": augment.brighten, "saturation": augment.saturate, "contrast": augment.contrast}
