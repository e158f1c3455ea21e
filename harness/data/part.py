"""Training on a part of a split: `max_images`, a number, or `fraction`, a share; the same for every arm and seed.

Which images a share takes is decided by the data set's name and their number alone, and a smaller share lies within a
larger one (low-data studies: 1, 0.2, 0.1). Classes are not balanced. The test split stays whole.
"""

import numpy as np

from harness.rng import derive


def check(max_images: int | None, fraction: float) -> None:
    """ValueError where both are given."""
    if max_images is not None and fraction != 1:
        raise ValueError(f"fraction: {fraction:g}: can't stand beside max_images: {max_images}; keep one of them")


def size(count: int, fraction: float) -> int:
    """How many of `count` images the share in (0, 1] has, at least one; a half is rounded up."""
    return max(1, int(count * fraction + 0.5))


def rows(name: str, count: int, fraction: float) -> np.ndarray:
    """Which of `count` images the share of data set `name` takes: int64 [size], ascending."""
    rng = np.random.Generator(np.random.PCG64(derive("fraction", name, count)))
    return np.sort(np.argsort(rng.random(count), kind="stable")[: size(count, fraction)])
