"""Sources of the paper's datasets to StyleGAN's ZIP: crop, resize with a named filter, record how.

`python cli.py data prepare NAME --source SOURCE --out OUT.zip`. The same call continues a run
that was stopped.
"""

import io
import json
import multiprocessing
import signal
import tarfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from harness import process
from harness.data import levels
from harness.data.archive import ResumableZip, entry_name
from harness.data.decode import Crop, Filter, decode, resize, square
from harness.data.image_files import open_files
from harness.errors import UserError, one_line
from harness.plugins import hint

Progress = Callable[[int, int], None]
"""Called with the images written so far and their number."""


@dataclass(frozen=True)
class Source:
    """`total` images with their class numbers (None: unlabelled). `read(start)` yields
    (name, bytes) from image `start` on, in a fixed order. `identity` is plain data. `notes`: what one should know of
    files that are there and not read. `classes`: what they are called, where that is known."""

    total: int
    labels: list[int] | None
    identity: Any
    read: Callable[[int], Generator[tuple[str, bytes], None, None]]
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How a dataset is made unless the call says otherwise."""

    open: Callable[[Path], Source]
    resolution: int | None  # None: as stored; all images must then be of one size
    filter: Filter
    crop: Crop
    max_images: int | None


@dataclass(frozen=True)
class Prepared:
    """`notes`: what one should know of the source: what was left out, not used, or changed in images of this call."""

    out: Path
    images: int
    resolution: int
    size_bytes: int
    notes: tuple[str, ...] = ()


def prepare(
    name: str,
    source: Path,
    out: Path,
    *,
    resolution: int | None = None,
    filter: Filter | None = None,
    crop: Crop | None = None,
    max_images: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Write `out` from `source` by the recipe `name`; None takes the recipe's own value.

    `workers` processes (None: one per core, at most 8; 1: this process). How the images were
    made is recorded under "prepared" in the ZIP's dataset.json.
    Raises UserError on anything bad; `<out>.part` then holds what was done so far.
    """
    recipe = _recipe(name, resolution, filter, crop, max_images)
    if out.exists():
        raise UserError(f"--out: {out}: exists already; remove it, or name another file")
    if not source.exists():
        raise UserError(f"--source: {source}: does not exist; give what {name} is made from")
    if workers is not None and workers < 1:
        raise UserError(f"--workers: {workers}: must be >= 1")
    opened = recipe.open(source)
    total = min(opened.total, recipe.max_images or opened.total)
    make = _Make(recipe.crop, *_size(recipe, opened))
    record = {
        "recipe": name,
        "source": source.name,
        "images": total,
        "resolution": make.resolution,
        "filter": make.filter or "none",
        "crop": recipe.crop,
    }
    met, ranges, flat = Counter[str](), dict[str, tuple[int, int]](), 0
    with ResumableZip(out, {**record, "identity": opened.identity}) as archive:
        here = total - archive.written
        items = islice(opened.read(archive.written), here)
        with closing(_pngs(items, make, workers or min(8, process.cores()))) as pngs:
            for made in pngs:
                archive.add(made.png)
                met.update(made.notes)
                flat += made.brightest - made.darkest < levels.LEAST
                levels.widen(ranges, made.depth, made.darkest, made.brightest)
                if progress is not None:
                    progress(archive.written, total)
        if archive.written < total:
            raise UserError(f"--source: {source}: ended after {archive.written} of {total} images; fetch it again")
        labels = None if opened.labels is None else [(entry_name(i), v) for i, v in enumerate(opened.labels[:total])]
        named = {"classes": list(opened.classes)} if opened.classes else {}
        archive.finish({"labels": labels, **named, "prepared": record})
    said = (*archive.begun_anew, *opened.notes, *_lost_classes(opened.labels or [], total))
    changed = [f"{n} of {total} images are {what}" for what, n in sorted(met.items())]
    some = "" if here == total else f" (the {here} images of this call)"
    changed += [f"{note}{some}" for note in levels.notes(ranges, flat, here)]
    return Prepared(out, total, make.resolution, out.stat().st_size, (*said, *changed))


def _lost_classes(labels: list[int], total: int) -> list[str]:
    """A note where the first `total` images, which are often sorted by class, leave some classes out."""
    there, kept = len(set(labels)), len(set(labels[:total]))
    return [f"{kept} of {there} classes are left; dataset.max_images takes some of each"] if kept < there else []


def _recipe(name: str, resolution: Any, filter: Any, crop: Any, max_images: Any) -> Recipe:
    if name not in RECIPES:
        raise UserError(f"data prepare: {name!r} is not one of the datasets{hint(name, sorted(RECIPES))}")
    for option, value in (("--resolution", resolution), ("--max-images", max_images)):
        if value is not None and value < 1:
            raise UserError(f"{option}: {value}: must be >= 1")
    if resolution is not None and resolution > 4096:
        raise UserError(f"--resolution: {resolution}: must be <= 4096")
    for option, value, choices in (("--filter", filter, get_args(Filter)), ("--crop", crop, get_args(Crop))):
        if value is not None and value not in choices:
            raise UserError(f"{option}: {value!r} is not a choice{hint(value, list(choices))}")
    given = {"resolution": resolution, "filter": filter, "crop": crop, "max_images": max_images}
    return replace(RECIPES[name], **{k: v for k, v in given.items() if v is not None})


def _size(recipe: Recipe, source: Source) -> tuple[int, Filter | None]:
    """The side of all images, and the filter that makes it so (None: the first image's own side)."""
    if recipe.resolution is not None:
        return recipe.resolution, recipe.filter
    with closing(source.read(0)) as items:
        name, data = next(items)
    return square(decode(data, name).image, recipe.crop, name, "--crop").width, None


# ── one image ────────────────────────────────────────────────────────────────


class _Made(NamedTuple):
    """The image that is stored. `depth` and `notes` as in `Picture`; `darkest`, `brightest`: 0 .. 255."""

    png: bytes
    notes: tuple[str, ...]
    depth: str
    darkest: int
    brightest: int


@dataclass(frozen=True)
class _Make:
    """One source image to the PNG that is stored; runs in the workers."""

    crop: Crop
    resolution: int
    filter: Filter | None

    def __call__(self, name: str, data: bytes) -> _Made:
        picture = decode(data, name)
        image = square(picture.image, self.crop, name, "--crop")
        if self.filter is not None:
            image = resize(image, self.resolution, self.filter)
        if image.width != self.resolution:
            raise UserError(
                f"{name}: {image.width}x{image.width}, but the first image is {self.resolution}x{self.resolution}; "
                "give --resolution to resize all"
            )
        png = io.BytesIO()
        image.save(png, "PNG")
        pixels = np.asarray(image)
        return _Made(png.getvalue(), picture.notes, picture.depth, int(pixels.min()), int(pixels.max()))


def _pngs(items: Iterable[tuple[str, bytes]], make: _Make, workers: int) -> Generator[_Made, None, None]:
    """`make` of each item, in order; at most a few per worker are held at a time."""
    if workers == 1:
        yield from (make(*item) for item in items)
        return
    context = multiprocessing.get_context("spawn")
    deaf = (signal.SIGINT, signal.SIGHUP)
    pool = ProcessPoolExecutor(workers, context, initializer=process.end_with_parent, initargs=deaf)
    waiting: deque[Future[_Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, *item))
            if len(waiting) >= 8 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError("--workers: a worker was killed, perhaps for its memory; run again with fewer") from None
    finally:
        pool.shutdown(cancel_futures=True)


# ── sources ──────────────────────────────────────────────────────────────────


def _open_files(path: Path) -> Source:
    """A folder or ZIP of images, in the order of their names, with the labels of its dataset.json."""
    files = open_files(path, "--source")

    def read(start: int) -> Generator[tuple[str, bytes], None, None]:
        for name in files.names[start:]:
            yield f"--source: {path}: {name}", files.read(name)

    labels = None if files.labels is None else [files.labels[n] for n in files.names]
    return Source(len(files.names), labels, files.identity, read, files.notes, files.classes)


def _open_lsun(path: Path) -> Source:
    """LSUN's LMDB (a folder with data.mdb) in the order of its keys; or a folder of its images."""
    if not (path / "data.mdb").exists():
        return _open_files(path)
    import lmdb  # only this source needs it

    @contextmanager
    def database() -> Iterator[Any]:
        try:
            with lmdb.open(str(path), readonly=True, lock=False, readahead=False) as opened:
                yield opened
        except lmdb.Error as e:
            raise UserError(f"--source: {path}: not a readable LMDB ({e}); fetch it again") from None

    def read(start: int) -> Generator[tuple[str, bytes], None, None]:
        with database() as opened, opened.begin() as transaction:
            for key in islice(transaction.cursor().iternext(values=False), start, None):
                yield f"--source: {path}: {key.decode('ascii', 'backslashreplace')}", transaction.get(key)

    with database() as opened:
        total = opened.stat()["entries"]
    if total == 0:
        raise UserError(f"--source: {path}: holds no images; fetch it again")
    return Source(total, None, [total, (path / "data.mdb").stat().st_size], read)


_EMOJI_IMAGES = "package/img/google/64/"
_EMOJI_INDEX = "package/emoji.json"
_MAX_EMOJI_BYTES = {".png": 2**20, ".json": 64 * 2**20}


def _open_emoji(path: Path) -> Source:
    """The tarball of the npm package emoji-datasource-google: its 64-pixel images in Unicode's
    order, each followed by its skin tones. Classes are the groups in order of appearance."""
    place = f"--source: {path}"
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isfile() and (member.name.startswith(_EMOJI_IMAGES) or member.name == _EMOJI_INDEX):
                    if member.size > _MAX_EMOJI_BYTES.get(Path(member.name).suffix, 0):
                        raise UserError(f"{place}: {member.name}: {member.size} bytes: too large; fetch it again")
                    files[member.name] = archive.extractfile(member).read()  # type: ignore[union-attr]
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as e:
        raise UserError(
            f"{place}: not a whole emoji-datasource-google-16.0.0.tgz ({one_line(e)}); fetch it again"
        ) from None
    try:
        names, labels, undrawn = _emoji_order(json.loads(files[_EMOJI_INDEX]))
        images = [(f"{place}: {name}", files[_EMOJI_IMAGES + name]) for name in names]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:
        raise UserError(f"{place}: no emoji-datasource-google package ({e!r}); fetch version 16.0.0") from None
    if not images:
        raise UserError(f"{place}: holds no images; fetch emoji-datasource-google 16.0.0")
    notes = (f"left out: {undrawn} of {undrawn + len(images)} emoji, which Google does not draw",) if undrawn else ()
    return Source(len(images), labels, [n for n, _ in images], lambda start: (item for item in images[start:]), notes)


def _emoji_order(index: list[dict[str, Any]]) -> tuple[list[str], list[int], int]:
    """emoji.json -> file names, class numbers, and how many there is no image of."""
    undrawn = 0
    names: list[str] = []
    groups: list[str] = []
    for emoji in sorted(index, key=lambda e: e["sort_order"]):
        for variant in (emoji, *emoji.get("skin_variations", {}).values()):
            if variant["has_img_google"]:
                names.append(variant["image"])
                groups.append(emoji["category"])
            else:
                undrawn += 1
    classes = list(dict.fromkeys(groups))
    return names, [classes.index(g) for g in groups], undrawn


RECIPES = {
    "noto_emoji": Recipe(_open_emoji, None, "lanczos", "none", None),
    "lsun_cat": Recipe(_open_lsun, 256, "lanczos", "centre", 200_000),
    "lsun_church": Recipe(_open_lsun, 256, "lanczos", "centre", None),
    "ffhq": Recipe(_open_files, 256, "box", "none", None),  # box: the filter behind the published baselines
    "folder": Recipe(_open_files, None, "lanczos", "none", None),
}
