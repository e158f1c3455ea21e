"""CIFAR-10 (Krizhevsky 2009), from the genuine "python version" archive or its extracted folder."""

import tarfile
import zlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np

from harness.data import cifar_batches as _batches
from harness.data import identity as _identity
from harness.data import levels, part
from harness.data.download import Progress, fetch, printed
from harness.data.imageset import Channels, ImageSet, Split, fingerprint, with_channels
from harness.errors import UserError, one_line

EPOCH = 1
PART = ("max_images", "fraction")

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
SIZE = 170_498_071
MAX_BATCH_BYTES = 64 * 2**20  # a genuine batch has 31 MB

_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


@dataclass(frozen=True)
class Options:
    """`path`: cifar-10-python.tar.gz, or the extracted folder; downloaded when a missing archive."""

    path: Path = Path("data/cifar-10-python.tar.gz")
    xflip: bool = False
    channels: Channels = 3
    max_images: Annotated[int, ">= 1"] | None = None  # the first of a split, which is in random order
    expect_full: bool = True  # false: files of the format with any number of images are accepted
    fraction: Annotated[float, "> 0, <= 1"] = 1.0  # of the training images, drawn once and for all

    def __post_init__(self) -> None:
        part.check(self.max_images, self.fraction)


def identity(options: Options) -> str | None:
    """Of the archive, or of the batches in the folder. Where there is none, that of the archive that `load` would
    download: its checksum is published."""
    batches = [name for names in _BATCHES.values() for name in names]
    found = _identity.of(_folder(options.path), batches)
    downloaded = f"file:{SHA256}" if options.path.name.endswith(".tar.gz") else None
    return found or downloaded


def has_test(options: Options) -> bool:
    return True


def load(options: Options, split: Split = "train") -> ImageSet:
    """50,000 training or 10,000 test images [N, channels, 32, 32] in the archive's order, 10 classes."""
    place = f"dataset.path: {options.path}"
    if not options.path.exists():
        download(options.path)
    files = _read_folder(options.path, split) if options.path.is_dir() else _read_archive(options.path, split)
    if not files:
        raise UserError(f"{place}: holds no {_BATCHES[split][0]}; put the genuine cifar-10-python.tar.gz there")
    parts = [_parse(files[name], f"{place}: {name}") for name in _BATCHES[split] if name in files]
    counts = [len(labels) for _, labels in parts]
    if options.expect_full and counts != [10_000] * len(_BATCHES[split]):
        raise UserError(
            f"{place}: the {split} batches hold {counts} images: must be {len(_BATCHES[split])} x 10000; "
            "get the whole archive, or set dataset.expect_full to false"
        )
    pixels, classes = (np.concatenate(half)[: options.max_images] for half in zip(*parts, strict=True))
    if split == "train" and options.fraction < 1:
        some = part.rows("cifar10", len(pixels), options.fraction)
        pixels, classes = pixels[some], classes[some]
    images, labels = with_channels(pixels, options.channels), classes
    gone = [name for name in _BATCHES[split] if name not in files]
    notes = [f"not there: {', '.join(gone)}"] if gone else []
    whole = replace(options, max_images=None, fraction=1.0)
    part_of = partial(load, whole, split) if len(images) < sum(counts) else None
    about = {
        "name": "cifar10",
        "split": split,
        "source": options.path.name,
        "count": len(images),
        "resolution": 32,
        "filter": "none",
        "num_classes": 10,
        "xflip": options.xflip,
        "notes": [*notes, *levels.of_sample(images)],
    }
    return ImageSet(images, labels, 10, fingerprint(images, labels, "none"), about, options.xflip, part_of=part_of)


def _parse(data: bytes, place: str) -> tuple[np.ndarray, np.ndarray]:
    """One batch file -> images uint8 [N, 3, 32, 32] and labels int64 [N]."""
    try:
        batch = _batches.read(data)
    except _batches.Refused as e:
        raise UserError(f"{place}: not a CIFAR-10 batch: {e}; get the genuine archive") from None
    pixels, labels = (batch.get("data"), batch.get("labels")) if isinstance(batch, dict) else (None, None)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise UserError(f"{place}: 'data' must be a uint8 array of N x 3072; get the genuine archive")
    if len(pixels) == 0:
        raise UserError(f"{place}: holds no images; get the genuine archive")
    values = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if not isinstance(values, list) or len(values) != len(pixels):
        raise UserError(f"{place}: 'labels' must be a list of {len(pixels)} numbers; get the genuine archive")
    if not all(type(v) is int and 0 <= v <= 9 for v in values):
        raise UserError(f"{place}: 'labels' must be from 0 to 9; get the genuine archive")
    return pixels.reshape(-1, 3, 32, 32), np.array(values, np.int64)


def _read_folder(path: Path, split: Split) -> dict[str, bytes]:
    """The split's batch files in `path` or in the cifar-10-batches-py inside it."""
    folder = _folder(path)
    found: dict[str, bytes] = {}
    for file in [folder / name for name in _BATCHES[split]]:
        if not file.exists():
            continue
        try:
            _bound(file.stat().st_size, f"dataset.path: {file}")
            found[file.name] = file.read_bytes()
        except OSError as e:
            raise UserError(f"dataset.path: {file}: not readable ({e.strerror}); check the file") from None
    return found


def _folder(path: Path) -> Path:
    """Where the batches lie, if `path` is a folder."""
    inner = path / "cifar-10-batches-py"
    return inner if inner.is_dir() else path


def _read_archive(path: Path, split: Split) -> dict[str, bytes]:
    """The split's batch files, by their last name; nothing is extracted to disk."""
    place = f"dataset.path: {path}"
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                _bound(member.size, f"{place}: {name}")
                if name in _BATCHES[split] and (file := archive.extractfile(member)) is not None:
                    found[name] = file.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as e:
        raise UserError(
            f"{place}: not a whole cifar-10-python.tar.gz ({one_line(e)}); remove it and run again to download it"
        ) from None
    return found


def _bound(size: int, place: str) -> None:
    if size > MAX_BATCH_BYTES:
        raise UserError(f"{place}: {size} bytes: must be at most {MAX_BATCH_BYTES}; get the genuine archive")


_PRINTED = printed("cifar10")


def download(path: Path, progress: Progress = _PRINTED) -> None:
    """Fetch the archive to `path`, whole and with the published checksum, or leave nothing there."""
    place = f"dataset.path: {path}"
    if not path.name.endswith(".tar.gz"):
        raise UserError(f"{place}: does not exist; give cifar-10-python.tar.gz or the folder cifar-10-batches-py")
    remedy = f"put cifar-10-python.tar.gz ({SIZE} bytes, from {URL}) at {path}"
    fetch(URL, path, SIZE, SHA256, place, remedy, progress)
