"""Three random images of Fashion-MNIST as red, green and blue: 1,000 equally likely modes, known by their labels.

After the stacked MNIST of Metz et al. 2017 (https://arxiv.org/abs/1611.02163). Triple i is decided by the set's seed
and i. Triples of the training split come from the 60,000 images, held-out ones from the 10,000. An image is stacked
when it is asked for: 128,000 of them take 60 MB.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from harness.data.imageset import ImageSet, Split, fingerprint
from harness.data.stacked import Stacked
from harness.datasets import _fashion_files as _files
from harness.rng import derive

EPOCH = 1

MODES = len(_files.CLASSES) ** 3


@dataclass(frozen=True)
class Options(_files.FileOptions):
    num_images: Annotated[int, ">= 1, <= 10000000"] = 128_000
    num_heldout: Annotated[int, ">= 1, <= 10000000"] = 50_000
    seed: Annotated[int, ">= 0"] = 0


def identity(options: Options) -> str | None:
    """That of Fashion-MNIST's files: with them the options decide every image."""
    return _files.identity(options)


def lie_at(options: Options) -> tuple[Path, ...]:
    return _files.lie_at(options)


def has_test(options: Options) -> bool:
    return True


def load(options: Options, split: Split = "train") -> ImageSet:
    """`num_images` triples of training images, or `num_heldout` of the others; class 100 r + 10 g + b."""
    grey, classes, folder = _files.read(options, split)
    count = options.num_images if split == "train" else options.num_heldout
    triples = draw(len(grey), count, options.seed, split)
    labels = classes[triples] @ np.array([100, 10, 1])
    images = Stacked(_files.sized(grey, options.resize)[:, 0], classes, triples)
    about = {
        "name": "stacked_fashion_mnist",
        "split": split,
        "source": folder.name,
        "seed": options.seed,
        "count": count,
        "resolution": _files.RESOLUTION,
        "filter": options.resize,
        "num_classes": MODES,
        "xflip": False,  # a mirrored shoe points the other way in one channel only if the set holds it so
    }
    return ImageSet(images, labels, MODES, fingerprint(images, labels, options.resize), about)


def draw(num_images: int, count: int, seed: int, split: Split) -> np.ndarray:
    """Which images make up each of the triples: int64 [count, 3]. Row i does not depend on `count`."""
    rng = np.random.Generator(np.random.PCG64(derive("stacked_fashion_mnist", seed, split)))
    return (rng.random((count, 3)) * num_images).astype(np.int64)
