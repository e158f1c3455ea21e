"""Any images: StyleGAN's dataset format, a ZIP or a folder with labels in `dataset.json`, or folders of classes."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from harness import process
from harness.data import identity as _identity
from harness.data import levels, part
from harness.data import pixel_cache as _cache
from harness.data.decode import Crop, Filter, Picture, decode, resize, square
from harness.data.image_files import ImageFiles, open_files
from harness.data.imageset import Channels, ImageSet, Split, fingerprint, with_channels
from harness.errors import UserError
from harness.rng import derive

EPOCH = 1
PART = ("max_images", "fraction", "holdout")

KEPT = 2
"""Raised when pixels, or what is noted of them, come out other than those that earlier versions have kept."""

IN_MEMORY_BYTES = 256 * 2**20
"""Decoded sets up to this size are held in memory; larger ones are mapped from the cache folder."""


@dataclass(frozen=True)
class Options:
    """`path`: ZIP or folder. How a file becomes pixels is in `harness.data.decode`. `max_images` and `fraction` are a
    fixed random subset (files are often sorted by class) of what is not held out."""

    path: Path
    resolution: Annotated[int, ">= 4, <= 4096"] | None = None  # None: as stored
    filter: Filter = "lanczos"  # used, and recorded, only where an image must be resized
    xflip: bool = False
    channels: Channels = 3
    max_images: Annotated[int, ">= 1"] | None = None
    holdout: Annotated[int, ">= 0"] = 0  # images kept out of training: the test split
    crop: Crop = "none"  # images that are not square are refused, cut to the middle, or padded with black
    fraction: Annotated[float, "> 0, <= 1"] = 1.0  # of the images: a share instead of a number

    def __post_init__(self) -> None:
        part.check(self.max_images, self.fraction)


def identity(options: Options) -> str | None:
    """Of the names and contents of images and labels in the ZIP or folder; None where it is not here."""
    return _identity.of(options.path)


def has_test(options: Options) -> bool:
    return options.holdout > 0


def load(options: Options, split: Split = "train") -> ImageSet:
    """The split, in the order of the sorted file names."""
    files = open_files(options.path, "dataset.path")
    names = _select(files.names, options, split)
    labels = None if files.labels is None else np.array([files.labels[n] for n in names], np.int64)
    resolution = options.resolution or _read(files, names[0], options.crop).image.width
    shape = (len(names), options.channels, resolution, resolution)
    seen = _Seen()  # filled while decoding
    pieces = _decode(files, names, options, resolution, seen)

    def describe(images: np.ndarray) -> dict[str, Any]:
        filter = options.filter if seen.sizes != {resolution} else "none"
        found = {"filter": filter, "fingerprint": fingerprint(images, labels, filter), "notes": seen.notes(len(names))}
        return found | ({"fingerprint_unlabelled": fingerprint(images, None, filter)} if files.by_folder else {})

    if int(np.prod(shape, dtype=np.int64)) <= IN_MEMORY_BYTES:
        images = np.concatenate(list(pieces))
        record = describe(images)
    else:
        content = identity(options)
        key = _cache_key(content, names, labels, options, resolution)
        cached = _cache.load(key, shape) or _cache.store(key, shape, _of(content, pieces, options), describe)
        images, record = cached.images, cached.record
    about = {
        "name": "image_zip",
        "split": split,
        "source": options.path.name,
        "count": len(names),
        "resolution": resolution,
        "filter": record["filter"],
        "num_classes": files.num_classes,
        "xflip": options.xflip,
        "prepared": files.prepared,
    }
    about["notes"] = [*files.notes, *record["notes"]]
    if files.classes:
        about["classes"] = list(files.classes)
    if options.crop != "none":
        about["crop"] = options.crop
    if files.unlabelled:
        about["unlabelled"] = files.unlabelled
    if files.skipped:
        about["skipped"] = dict(files.skipped)
    held_out = options.holdout if split == "train" else 0
    all_of_it = partial(load, replace(options, max_images=None, fraction=1.0), split)
    part_of = all_of_it if split == "train" and len(names) < len(files.names) - held_out else None
    return ImageSet(
        images, labels, files.num_classes, record["fingerprint"], about, options.xflip, None, part_of, held_out,
        record.get("fingerprint_unlabelled", ""),
    )  # fmt: skip


def _select(names: tuple[str, ...], options: Options, split: Split) -> list[str]:
    """The names of a split, sorted: test is the end of a fixed shuffle by name, train its beginning."""
    place = f"dataset.path: {options.path}"
    shuffled = sorted(names, key=lambda n: derive("image_zip", n))
    kept = len(names) - options.holdout
    if kept < 1:
        raise UserError(
            f"dataset.holdout: {options.holdout}: must be less than the {len(names)} images of {options.path}"
        )
    if split == "train":
        return sorted(shuffled[: min(part.size(kept, options.fraction), options.max_images or kept)])
    if not options.holdout:
        raise UserError(f"{place}: has no test split; set dataset.holdout to keep some images out of training")
    return sorted(shuffled[kept:])


def _decode(
    files: ImageFiles, names: list[str], options: Options, resolution: int, seen: "_Seen"
) -> Iterator[np.ndarray]:
    """The images in blocks [n, channels, resolution, resolution]; notes in `seen` how they are stored."""

    def one(name: str) -> tuple[np.ndarray, Picture]:
        picture = _read(files, name, options.crop)
        image = picture.image
        if options.resolution is None and image.width != resolution:
            raise UserError(
                f"dataset.path: {options.path}: {name}: {image.width}x{image.width}, but {names[0]} is "
                f"{resolution}x{resolution}; set dataset.resolution to resize all"
            )
        return np.asarray(resize(image, resolution, options.filter)).transpose(2, 0, 1), picture

    with ThreadPoolExecutor(min(8, process.cores())) as pool:
        for start in range(0, len(names), 256):
            block = list(pool.map(one, names[start : start + 256]))
            for pixels, picture in block:
                seen.add(pixels, picture)
            yield with_channels(np.stack([pixels for pixels, _ in block]), options.channels)


class _Seen:
    """What was met while decoding: sizes as stored, and what a user should know of the files."""

    def __init__(self) -> None:
        self.sizes: set[int] = set()
        self._counts = Counter[str]()
        self._ranges: dict[str, tuple[int, int]] = {}
        self._flat = 0

    def add(self, pixels: np.ndarray, picture: Picture) -> None:
        self.sizes.add(picture.image.width)
        self._counts.update(picture.notes)
        low, high = int(pixels.min()), int(pixels.max())
        self._flat += high - low < levels.LEAST
        levels.widen(self._ranges, picture.depth, low, high)

    def notes(self, count: int) -> list[str]:
        files = [f"{n} of {count} images are {what}" for what, n in sorted(self._counts.items())]
        return [*files, *levels.notes(self._ranges, self._flat, count)]


def _of(content: str | None, pieces: Iterator[np.ndarray], options: Options) -> Iterator[np.ndarray]:
    """`pieces`, which are kept under `content`: UserError where the files became others meanwhile."""
    yield from pieces
    if identity(options) != content:
        raise UserError(f"dataset.path: {options.path}: changed while it was read; run again when it is complete")


def _read(files: ImageFiles, name: str, crop: Crop) -> Picture:
    """A picture, made square."""
    place = f"dataset.path: {files.path}: {name}"
    picture = decode(files.read(name), place)
    return replace(picture, image=square(picture.image, crop, place, "dataset.crop:"))


def _cache_key(
    content: str | None, names: list[str], labels: np.ndarray | None, options: Options, resolution: int
) -> str:
    """Of the files' content, and what is made and noted of them; labels are part of the stored fingerprint."""
    labelled = None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest()
    more = [*(["grey"] if options.channels == 1 else []), *([options.crop] if options.crop != "none" else [])]
    return f"{derive(content, names, labelled, resolution, options.filter, KEPT, *more):016x}"
