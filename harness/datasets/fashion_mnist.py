"""Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey pictures of clothes in 10 classes, at 32x32.

The four IDX files come with Debian's package `dataset-fashion-mnist`, else they are downloaded. A picture of 28x28
becomes one of 32x32 by two rows and columns of zeros on each side (exact), or by a bilinear resize: a distance to one
is no distance to the other. Grey is repeated to three channels, or is one. The two differ in training: a network of one
channel has other initial gains, spectral norms and R1 (docs/data.md).
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from harness.data import part
from harness.data.imageset import Channels, ImageSet, Split, fingerprint, with_channels
from harness.datasets import _fashion_files as _files

EPOCH = 1
PART = ("max_images", "fraction")


@dataclass(frozen=True)
class Options(_files.FileOptions):
    channels: Channels = 3
    xflip: bool = False
    max_images: Annotated[int, ">= 1"] | None = None  # the first of a split, which is in random order
    fraction: Annotated[float, "> 0, <= 1"] = 1.0  # of the training images, drawn once and for all

    def __post_init__(self) -> None:
        part.check(self.max_images, self.fraction)


def identity(options: Options) -> str | None:
    """Of what the four files hold, packed or not; where they are not here, of those that `load` would download."""
    return _files.identity(options)


def lie_at(options: Options) -> tuple[Path, ...]:
    return _files.lie_at(options)


def has_test(options: Options) -> bool:
    return True


def load(options: Options, split: Split = "train") -> ImageSet:
    """60,000 training or 10,000 test images [N, channels, 32, 32] in the files' order."""
    grey, labels, folder = _files.read(options, split)
    count = len(grey)
    grey, labels = grey[: options.max_images], labels[: options.max_images]
    if split == "train" and options.fraction < 1:
        some = part.rows("fashion_mnist", count, options.fraction)
        grey, labels = grey[some], labels[some]
    images = with_channels(_files.sized(grey, options.resize), options.channels)
    about = {
        "name": "fashion_mnist",
        "split": split,
        "source": folder.name,
        "count": len(images),
        "resolution": _files.RESOLUTION,
        "filter": options.resize,
        "num_classes": len(_files.CLASSES),
        "classes": list(_files.CLASSES),
        "xflip": options.xflip,
    }
    found = fingerprint(images, labels, options.resize)
    whole = replace(options, max_images=None, fraction=1.0)
    part_of = partial(load, whole, split) if len(images) < count else None
    return ImageSet(images, labels, len(_files.CLASSES), found, about, options.xflip, part_of=part_of)
