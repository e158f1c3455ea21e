"""Oriented sine gratings: the class is one of four orientations; frequency, phase and colour are random."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from harness.data.imageset import ImageSet, Split, fingerprint
from harness.rng import derive

ANGLES = 4


@dataclass(frozen=True)
class Options:
    resolution: Annotated[int, ">= 8, <= 256"] = 32
    num_images: Annotated[int, ">= 1, <= 100000"] = 2000
    seed: Annotated[int, ">= 0"] = 0


def has_test(options: Options) -> bool:
    return True


def load(options: Options, split: Split = "train") -> ImageSet:
    """`num_images` images of a split; the test split is as many from another random stream."""
    rng = np.random.Generator(np.random.PCG64(derive("gratings", options.seed, split)))
    labels = np.arange(options.num_images, dtype=np.int64) % ANGLES
    cycles, phase = (rng.uniform(*span, options.num_images) for span in ((2, 6), (0, 1)))
    dark, light = rng.uniform(0, 0.5, (options.num_images, 3)), rng.uniform(0.5, 1, (options.num_images, 3))
    at = (np.arange(options.resolution) + 0.5) / options.resolution
    angle = labels * np.pi / ANGLES
    along = np.cos(angle)[:, None, None] * at[None, None] + np.sin(angle)[:, None, None] * at[None, :, None]
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (cycles[:, None, None] * along + phase[:, None, None]))
    colours = dark[:, :, None, None] + (light - dark)[:, :, None, None] * wave[:, None]
    images = np.rint(255 * colours).astype(np.uint8)
    about = {
        "name": "gratings", "split": split, "seed": options.seed, "count": len(images),
        "resolution": options.resolution, "filter": "none", "num_classes": ANGLES, "xflip": False,
    }  # fmt: skip
    return ImageSet(images, labels, ANGLES, fingerprint(images, labels, "none"), about)
