"""The images of a ZIP or a folder, with the labels of its `dataset.json`, StyleGAN's format, or of its folders.

Nothing is extracted, and no name inside is ever joined to a path.
"""

import hashlib
import json
import lzma
import os
import stat
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from harness.data import labels as _table
from harness.data.labels import LABELS, normal
from harness.errors import UserError, legible, one_line

EPOCH = 1

LATER = (".jfif", ".tif", ".tiff", ".bmp", ".gif")  # formats that were passed over when many a table was written
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", *LATER)
HIDDEN = "hidden file"
UNFINISHED = (".part", ".part.json")  # what `data prepare` and downloads leave behind when they are stopped
MAX_FILE_BYTES = 256 * 2**20
MAX_NOTE = 1000  # characters
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError)


@dataclass(frozen=True)
class ImageFiles:
    """`names` in sorted order; `read(name)` gives a file's bytes; `labels` by name, or None.

    `identity` changes when the files do. `prepared` is what `data prepare` recorded, if it did. `skipped`: how many
    files are left out, {why: n}, whatever the reason. `notes`: lines on that, and on what is there and not used.
    `unlabelled`: why there are no labels, where there are none. `classes`: what the classes are called, where that is
    known. `by_folder`: whether the labels are the names of folders.
    """

    path: Path
    names: tuple[str, ...]
    labels: dict[str, int] | None
    num_classes: int
    prepared: dict[str, Any] | None
    identity: str
    read: Callable[[str], bytes]
    skipped: Mapping[str, int]
    notes: tuple[str, ...]
    unlabelled: str
    classes: tuple[str, ...]
    by_folder: bool


def open_files(path: Path, key: str) -> ImageFiles:
    """Open a ZIP or a folder. UserErrors begin with `key`, the option that names the path."""
    place = f"{key}: {path}"
    if not path.exists():
        raise UserError(f"{place}: does not exist; give a ZIP or a folder of images")
    try:
        skipped = Counter[str]()
        sizes, read, identity = (_folder if path.is_dir() else _zip)(path, place, skipped)
    except BROKEN as e:
        raise UserError(f"{place}: not a readable ZIP or folder ({one_line(e)}); make it again") from None
    tables = [n for n in sizes if n.endswith(LABELS) and normal(n) == LABELS]
    read_ones = chosen(sizes, read)
    names = tuple(sorted(read_ones - set(tables)))
    others = [n for n in sizes if n not in read_ones]
    skipped.update(_kind(n) for n in others)
    if not names:
        besides = f" (left out: {listed(skipped)})" if skipped else ""
        raise UserError(f"{place}: holds no images{besides}; it must hold PNG, JPEG, WebP, TIFF, BMP or GIF files")
    if len(tables) > 1:
        raise UserError(f"{place}: holds {LABELS} twice ({', '.join(map(repr, tables))}); keep one")
    for name in (*names, *tables):
        if sizes.get(name, 0) > MAX_FILE_BYTES:
            raise UserError(f"{place}: {name}: {sizes[name]} bytes: must be at most {MAX_FILE_BYTES}; remove it")
    meta = _table.read_meta(read, tables[0], place) if tables else {}
    labels = _table.read_labels(meta, names, f"{place}: {LABELS}")
    classes = _table.class_names(meta)
    seen = [n for n in others if not _hidden(n) and not n.endswith(UNFINISHED)]
    said = _table.unused(seen, meta)
    notes = (*([f"left out: {listed(skipped)}"] if skipped else []), *said)
    folders = _table.Folders(None) if tables else _table.of_folders(names, seen)
    if folders.labels:
        labels, classes = folders.labels, folders.classes
        notes = (*notes, f"labels are the names of {len(classes)} folders: {_table.shown(list(classes))}")
    count = max(labels.values()) + 1 if labels else 0
    if classes and len(classes) < count:
        notes = (*notes, f"not used: classes in {LABELS}; it names {len(classes)} of {count}")
        classes = ()
    why = "" if labels else _table.why_none(bool(tables), said, folders.why)
    return ImageFiles(
        path, names, labels, count,
        meta.get("prepared") if isinstance(meta.get("prepared"), dict) else None, identity, read,
        dict(sorted(skipped.items())), tuple(legible(note, MAX_NOTE) for note in notes), legible(why, MAX_NOTE),
        classes if labels else (), folders.labels is not None,
    )  # fmt: skip


def counts(name: str) -> bool:
    """Whether a file of this name, relative to the ZIP or folder, is one of those that are read."""
    return name.endswith(LABELS) and normal(name) == LABELS or name.lower().endswith(SUFFIXES) and not _hidden(name)


def chosen(sizes: Mapping[str, int], read: Callable[[str], bytes]) -> set[str]:
    """Which of these files are read: images and the table; of a format in LATER, beside a table with labels, only
    those that it names, so that a set from when they were passed over stays what it was."""
    names = {n for n in sizes if counts(n)}
    later = {n for n in names if n.lower().endswith(LATER)}
    tables = [n for n in names if n.endswith(LABELS)]
    if not later or len(tables) != 1 or sizes[tables[0]] > MAX_FILE_BYTES:
        return names
    named = _table.named(read(tables[0]), later)
    return names if named is None else names - (later - named)


def listed(skipped: Mapping[str, int]) -> str:
    """What is left out, as a line says it: the most frequent first."""
    kinds = sorted(skipped.items(), key=lambda pair: (-pair[1], pair[0]))
    said = [f"{n} {why if n == 1 else _plural(why)}" for why, n in kinds[:5]]
    return ", ".join([*said, *([f"{sum(n for _, n in kinds[5:])} more"] if kinds[5:] else [])])


def _plural(why: str) -> str:
    return why.replace("link", "links") if "link" in why else f"{why}s"


def walk(folder: Path, skipped: Counter[str] | None = None) -> dict[str, Path]:
    """All files below `folder` by their names relative to it. Linked folders are followed, though not back to one
    in which the link itself lies. `skipped` counts what is passed over."""
    found: dict[str, Path] = {}
    todo: list[tuple[Path, str, tuple[str, ...]]] = [(folder, "", (os.path.realpath(folder),))]
    while todo:
        here, prefix, above = todo.pop()
        for path in here.iterdir():
            if path.is_dir():
                real = os.path.realpath(path)
                if not any(f"{a}/".startswith(f"{real}/") for a in above):
                    todo.append((path, f"{prefix}{path.name}/", (*above, real)))
                    continue
                why = "upward link"
            elif path.is_file():
                found[prefix + path.name] = path
                continue
            else:
                why = "broken link" if path.is_symlink() else "special file"
            if skipped is not None:
                skipped[HIDDEN if _hidden(prefix + path.name) else why] += 1
    return found


def _zip(path: Path, place: str, skipped: Counter[str]) -> tuple[dict[str, int], Callable[[str], bytes], str]:
    archive = zipfile.ZipFile(path)
    listed = [i for i in archive.infolist() if not i.filename.endswith(("/", "\\"))]
    infos = {i.filename: i for i in listed}
    if len(infos) != len(listed):
        raise UserError(f"{place}: holds two files of one name; make it again")
    for name in infos:
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or name[1:2] == ":":
            raise UserError(f"{place}: {name!r}: a name must stay inside the ZIP; make it again")
    lock = threading.Lock()

    def read(name: str) -> bytes:
        try:
            with lock:  # one file handle, several decoding threads
                return archive.read(infos[name])
        except BROKEN as e:
            raise UserError(f"{place}: {name}: not readable ({one_line(e)}); make the ZIP again") from None

    content = sorted((i.filename, i.file_size, i.CRC) for i in infos.values())
    links = {n for n, i in infos.items() if stat.S_ISLNK(i.external_attr >> 16)}  # where they lead to is not in the ZIP
    if links:
        skipped["link in the ZIP"] += len(links)
    return {n: i.file_size for n, i in infos.items() if n not in links}, read, _hash(content)


def _folder(path: Path, place: str, skipped: Counter[str]) -> tuple[dict[str, int], Callable[[str], bytes], str]:
    stats = {name: p.stat() for name, p in walk(path, skipped).items()}

    def read(name: str) -> bytes:
        try:
            return (path / name).read_bytes()
        except OSError as e:
            raise UserError(f"{place}: {name}: not readable ({one_line(e)}); check the file") from None

    # Reading every file to identify a folder would cost as much as decoding it.
    read_ones = {n: s for n, s in stats.items() if counts(n)}
    rows = sorted((n, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for n, s in read_ones.items())
    content = [str(path.resolve()), rows]
    return {n: s.st_size for n, s in stats.items()}, read, _hash(content)


def _kind(name: str) -> str:
    """How a file that is no image by its name is counted; few kinds, whatever names there are."""
    if _hidden(name):
        return HIDDEN
    if name.endswith(UNFINISHED):
        return "unfinished file"
    suffix = PurePosixPath(name).suffix.lower()
    return f"{suffix} file" if suffix[1:2].isalpha() and suffix[1:].isalnum() and len(suffix) <= 6 else "other file"


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in normal(name).split("/"))


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode("utf-8", "surrogatepass")).hexdigest()
