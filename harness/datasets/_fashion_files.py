"""The four files of Fashion-MNIST (Xiao et al. 2017, https://arxiv.org/abs/1708.07747), MIT: where they are found, and
what they hold.

Debian's package `dataset-fashion-mnist` brings them; else they are downloaded. What they hold is known by its checksum,
not by the file's, which differs between packers.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from harness.data import identity as _identity
from harness.data.download import fetch, printed
from harness.data.idx_files import parse, unpacked
from harness.data.imageset import Split
from harness.errors import UserError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FOLDER = Path("data/fashion-mnist")
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
COUNT = {"train": 60_000, "test": 10_000}
RESOLUTION = 32

# name: SHA-256 of the content, and of the published .gz with its size
FILES = {
    "train-images-idx3-ubyte": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        26_421_856,
    ),
    "train-labels-idx1-ubyte": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        29_491,
    ),
    "t10k-images-idx3-ubyte": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        4_422_079,
    ),
    "t10k-labels-idx1-ubyte": (
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        5_125,
    ),
}
_HALF = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class FileOptions:
    """`path`: the folder of the four files, packed or not; None: Debian's, else data/fashion-mnist."""

    path: Path | None = None
    resize: Literal["pad2", "bilinear"] = "pad2"
    expect_full: bool = True  # false: files of the format with any images are accepted


def identity(options: FileOptions) -> str | None:
    """Of what the four files hold, packed or not; where there are none, of those that would be downloaded."""
    files = _found(_folder(options.path))
    if len(files) < len(FILES):
        published = _identity.digest(sorted((name, content) for name, (content, _, _) in FILES.items()))
        return f"contents:{published}" if options.expect_full else None
    return _identity.of_contents(files, lambda name: unpacked(files[name], "dataset.path"))


def lie_at(options: FileOptions) -> tuple[Path, ...]:
    """The four files; where one is not there, the place to which it would be downloaded."""
    folder = _folder(options.path)
    found = _found(folder)
    return tuple(found.get(name, folder / f"{name}.gz") for name in FILES)


def read(options: FileOptions, split: Split) -> tuple[np.ndarray, np.ndarray, Path]:
    """Images uint8 [N, 28, 28], labels int64 [N], and the folder. Raises UserError.

    `expect_full`: the content must have the published checksum, and what is missing is downloaded. Other content is
    never filled up with the published one.
    """
    folder, expect_full = _folder(options.path), options.expect_full
    images = parse(_content(folder, f"{_HALF[split]}-images-idx3-ubyte", expect_full), 3, f"dataset.path: {folder}")
    labels = parse(_content(folder, f"{_HALF[split]}-labels-idx1-ubyte", expect_full), 1, f"dataset.path: {folder}")
    place = f"dataset.path: {folder}: {_HALF[split]}"
    if images.shape[1:] != (28, 28) or not len(images):
        raise UserError(
            f"{place}: {' x '.join(map(str, images.shape))}: must be images of 28 x 28; get the files again"
        )
    if len(labels) != len(images) or labels.max() >= len(CLASSES):
        raise UserError(f"{place}: must hold {len(images)} labels from 0 to 9, one an image; get the files again")
    return images, labels.astype(np.int64), folder


def sized(images: np.ndarray, resize: str) -> np.ndarray:
    """uint8 [N, 28, 28] -> [N, 1, 32, 32]: "pad2" adds two zeros on each side, "bilinear" is Pillow's resize."""
    if resize == "pad2":
        return np.pad(images, ((0, 0), (2, 2), (2, 2)))[:, None]
    size = (RESOLUTION, RESOLUTION)
    return np.stack([np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR)) for x in images])[:, None]


def _folder(path: Path | None) -> Path:
    """Where the files lie: what the user names, else Debian's folder, else where they are downloaded to."""
    return path or (DEBIAN if len(_found(DEBIAN)) == len(FILES) else FOLDER)


def _found(folder: Path) -> dict[str, Path]:
    """The files that are there, by their names without ".gz"."""
    candidates = {name: (folder / name, folder / f"{name}.gz") for name in FILES}
    return {name: p for name, both in candidates.items() for p in both[::-1] if p.is_file()}


def _content(folder: Path, name: str, expect_full: bool) -> bytes:
    place = f"dataset.path: {folder}"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{place}: must be the folder of the four files of Fashion-MNIST, like {name}.gz")
    file = _found(folder).get(name)
    content, packed, size = FILES[name]
    if file is None:
        file = folder / f"{name}.gz"
        if not expect_full:
            raise UserError(f"{place}: {name}.gz: does not exist; put it there, or name the folder of all four files")
        remedy = "apt-get install dataset-fashion-mnist, or set dataset.path to the folder of its four files"
        fetch(f"{URL}/{name}.gz", file, size, packed, f"{place}: {name}.gz", remedy, printed("fashion_mnist"))
    data = unpacked(file, "dataset.path")
    if expect_full and hashlib.sha256(data).hexdigest() != content:
        raise UserError(
            f"dataset.path: {file}: is not Fashion-MNIST's {name} (another checksum); get it again, "
            "or set dataset.expect_full to false"
        )
    return data
