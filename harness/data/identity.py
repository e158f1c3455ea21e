"""What a dataset's files hold, in one line of text: equal for the same content wherever and whenever it lies.

Names and contents decide, of a ZIP the names, sizes and checksums in its directory. All is read once; what was found
is kept in the cache folder for as long as path, size, times and inode of every file stay as they were. Those are keys
of that cache and no part of the identity.
"""

import contextlib
import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from harness.data.image_files import BROKEN, LABELS, SUFFIXES, chosen, counts, walk
from harness.disk import cache_folder, write_atomic
from harness.errors import UserError, one_line

VERSION = 1  # raised when the same files get another identity: what is kept was found by the code before
FRESH_S = 2.0  # a file that changed so lately may change again without another time


def of(path: Path, names: Collection[str] | None = None) -> str | None:
    """The identity of a ZIP, of a folder or of another file; None where there is nothing at `path`.

    `names`: which files of a folder or ZIP are read; None: images and their labels. UserError where it can't be read.
    """
    try:
        if not path.exists():
            return None
        read = counts if names is None else names.__contains__
        files = {n: p for n, p in walk(path).items() if read(n)} if path.is_dir() else {"": path}
        found, newest = _stamp(path, files)
        asked = [*SUFFIXES, LABELS] if names is None else ["names", *sorted(names)]
        return remembered((digest([VERSION, asked, found]), newest), lambda: _read(path, files, names))
    except BROKEN as e:
        raise UserError(f"dataset.path: {path}: not readable ({one_line(e)}); check the file") from None


def of_contents(files: Mapping[str, Path], read: Callable[[str], bytes]) -> str:
    """Of what `read` makes of each of `files`, by name: the same whether it lies packed or not."""

    def find() -> str:
        return f"contents:{digest(sorted((name, hashlib.sha256(read(name)).hexdigest()) for name in files))}"

    found, newest = _stamp(Path(), dict(files))
    return remembered(
        (digest([VERSION, "contents", sorted((n, str(p.absolute())) for n, p in files.items()), found]), newest), find
    )


def stamp(path: Path) -> str:
    """Of where, how large and how old all files at `path` are: changes, but for a miracle, when one of them does."""
    files = walk(path) if path.is_dir() else {"": path}
    return _stamp(path, files)[0] if path.exists() else ""


def remembered(stamp: tuple[str, float], find: Callable[[], str]) -> str:
    """What `find` finds, kept under a stamp: a text, and when the newest of what it stands for changed."""
    note = cache_folder() / "identities" / stamp[0]
    with contextlib.suppress(OSError):
        return note.read_text(encoding="utf-8")
    found = find()
    if time.time() - stamp[1] > FRESH_S:
        with contextlib.suppress(OSError):  # without a cache it is read again
            write_atomic(note, found.encode())
    return found


def _stamp(path: Path, files: dict[str, Path]) -> tuple[str, float]:
    stats = {name: p.stat() for name, p in files.items()}
    rows = [(n, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev) for n, s in sorted(stats.items())]
    newest = max((max(s.st_mtime, s.st_ctime) for s in stats.values()), default=0.0)
    return digest([str(path.absolute()), rows]), newest


def _read(path: Path, files: dict[str, Path], names: Collection[str] | None) -> str:
    if path.is_dir():
        sizes = {name: p.stat().st_size for name, p in files.items()}
        found = chosen(sizes, lambda name: files[name].read_bytes()) if names is None else set(files)
        return f"folder:{digest(sorted((name, _of_file(files[name])) for name in found))}"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            sizes = {i.filename: i.file_size for i in archive.infolist()}
            found = chosen(sizes, archive.read) if names is None else set(names)
            rows = [(i.filename, i.file_size, i.CRC) for i in archive.infolist() if i.filename in found]
            return f"zip:{digest(sorted(rows))}"
    return f"file:{_of_file(path)}"


def _of_file(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest(content: object) -> str:
    """32 hex digits of plain data."""
    return hashlib.sha256(json.dumps(content).encode("utf-8", "surrogatepass")).hexdigest()[:32]
