"""The endless sequence of real images: shuffled epochs, cut into batches."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from harness.data.imageset import ImageSet
from harness.rng import stream


@lru_cache(maxsize=2)  # a batch may straddle two epochs
def order(seed: int, length: int, epoch: int) -> np.ndarray:
    """The order in which epoch `epoch` visits `length` items."""
    return torch.randperm(length, generator=stream(seed, "data", epoch)).numpy()


def batch(data: ImageSet, seed: int, start: int, n: int, conditional: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Real images start .. start + n of the endless sequence of shuffled epochs: uint8 [n, C, R, R], labels.

    With `xflip` an epoch holds every image and its mirror, as in StyleGAN2.
    """
    count = len(data.images)
    length = count * 2 if data.xflip else count
    places = np.arange(start, start + n)
    items = np.array([order(seed, length, int(p) // length)[int(p) % length] for p in places])
    images = data.images[items % count]
    mirrored = items >= count
    images[mirrored] = images[mirrored, :, :, ::-1]
    return images, data.labels[items % count] if conditional and data.labels is not None else None


def to_device(
    images: np.ndarray, labels: np.ndarray | None, part: slice, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """uint8 images to float32 in [-1, 1] on the device, with their labels."""
    x = torch.from_numpy(images[part]).to(device).float().div_(127.5).sub_(1)
    return x, None if labels is None else torch.from_numpy(labels[part]).to(device)
