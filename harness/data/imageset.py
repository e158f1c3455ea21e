"""What a data set is: uint8 images with or without labels, identified by their content."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np

Split = Literal["train", "test"]
Channels = Literal[1, 3]
"""1: grey, one channel; 3: colour, grey repeated."""


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

    `images` uint8 [N, C, R, R], C 3 or, grey, 1; `labels` int64 [N] in
    [0, num_classes), or None with `num_classes` 0. `fingerprint` identifies pixels, labels,
    count, resolution and resize filter. `about` is plain data for records. `xflip`: the
    trainer mirrors each image with probability 1/2. `boxes` float64 [N, 4], where the object
    is known: (x0, y0, x1, y1) in pixels, x1 and y1 exclusive. `part_of` reads the whole split, where these are some
    of its images only (`max_images`); `held_out`: how many of the split are in neither, kept for the test split.
    `fingerprint_unlabelled`: where labels are the names of folders, that of the same images without them.
    """

    images: Pixels
    labels: np.ndarray | None
    num_classes: int
    fingerprint: str
    about: dict[str, Any]
    xflip: bool = False
    boxes: np.ndarray | None = None
    part_of: "Callable[[], ImageSet] | None" = None
    held_out: int = 0
    fingerprint_unlabelled: str = ""

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def whole(self) -> "ImageSet":
        """The whole split but for what is held out: read when it is first asked for."""
        return self.part_of() if self.part_of else self

    @property
    def without_folders(self) -> "ImageSet":
        """The same without the labels that are names of folders: what a trial that asks for none is trained on, scored
        on and known by, whether or not the folders that its images lie in are read as classes."""
        if not self.fingerprint_unlabelled:
            return self
        whole = self.part_of
        return replace(
            self,
            labels=None,
            num_classes=0,
            fingerprint=self.fingerprint_unlabelled,
            part_of=whole and (lambda: whole().without_folders),
            fingerprint_unlabelled="",
        )

    @property
    def channels(self) -> int:
        return int(self.images.shape[1])

    @property
    def resolution(self) -> int:
        return int(self.images.shape[-1])


def with_channels(images: np.ndarray, channels: Channels) -> np.ndarray:
    """uint8 [N, 1 or 3, R, R] -> [N, channels, R, R]: grey is repeated, colour becomes its luma (ITU-R BT.601 in
    Pillow's 16-bit integers, as its mode "L"; grey stored as colour keeps its values)."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=1)
    red, green, blue = np.moveaxis(images.astype(np.uint32), 1, 0)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)[:, None]


def blocks(images: Pixels, size: int = 1024) -> Iterator[np.ndarray]:
    """`images` in contiguous pieces, so that a memmap is never read whole."""
    for start in range(0, len(images), size):
        yield np.ascontiguousarray(images[start : start + size])


def fingerprint(images: Pixels, labels: np.ndarray | None, filter: str) -> str:
    """32 hex digits over the pixels [N, C, R, R], the labels, N, R and the resize filter."""
    head = {"count": len(images), "resolution": images.shape[-1], "filter": filter, "labelled": labels is not None}
    if images.shape[1] != 3:
        head["channels"] = images.shape[1]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    for block in blocks(images):
        digest.update(block.data)
    return digest.hexdigest()[:32]
