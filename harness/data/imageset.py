"""What a data set is: uint8 images with or without labels, identified by their content."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

Split = Literal["train", "test"]


class Pixels(Protocol):
    """Images uint8 [N, C, R, R]: an array, a read-only memmap, or what makes them when it is asked for rows.
    Only the first axis is indexed, by a slice or an array of numbers.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[np.ndarray]: ...
    def __getitem__(self, rows: Any, /) -> np.ndarray: ...
    def __array__(self) -> np.ndarray: ...


@dataclass(frozen=True)
class ImageSet:
    """One split of a dataset.

    `images` uint8 [N, 3, R, R]; `labels` int64 [N] in
    [0, num_classes), or None with `num_classes` 0. `fingerprint` identifies pixels, labels,
    count, resolution and resize filter. `about` is plain data for records. `xflip`: the
    trainer mirrors each image with probability 1/2. `boxes` float64 [N, 4], where the object
    is known: (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
    """

    images: Pixels
    labels: np.ndarray | None
    num_classes: int
    fingerprint: str
    about: dict[str, Any]
    xflip: bool = False
    boxes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def resolution(self) -> int:
        return int(self.images.shape[-1])


def blocks(images: Pixels, size: int = 1024) -> Iterator[np.ndarray]:
    """`images` in contiguous pieces, so that a memmap is never read whole."""
    for start in range(0, len(images), size):
        yield np.ascontiguousarray(images[start : start + size])


def fingerprint(images: Pixels, labels: np.ndarray | None, filter: str) -> str:
    """32 hex digits over the pixels [N, 3, R, R], the labels, N, R and the resize filter."""
    head = {"count": len(images), "resolution": images.shape[-1], "filter": filter, "labelled": labels is not None}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    for block in blocks(images):
        digest.update(block.data)
    return digest.hexdigest()[:32]
