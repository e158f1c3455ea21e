"""Files that appear whole or not at all, folders that can be written, and what a full disk looks like. No torch."""

import errno
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import UserError

ROOT = Path(__file__).parents[1]
"""The folder that holds `harness/`, `backbones/` and `experiments/`: a checkout, or site-packages."""

LEAST_FREE = 100 * 2**20  # bytes; below it no training is worth starting
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader, or a crash at any moment, sees the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with fresh(part) as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def fresh(path: Path) -> BinaryIO:
    """A new file at `path` for writing, whatever stood there: it is made, never opened, so that a link which another
    user put in its place leads nowhere."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty where there is no such file, or something else in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def check_folder(folder: Path, option: str) -> None:
    """Raise UserError where something else than a folder lies at `folder`, or in its way."""
    first = next((p for p in (folder, *folder.parents) if p.exists()), folder)
    if first.exists() and not first.is_dir():
        raise UserError(f"{option} {folder}: {first} is no folder; name one, or one that is yet to be made")


def check_writable(folder: Path, option: str = "--results") -> None:
    """Raise UserError unless files can be made in `folder`, which `option` names, and its disk has room for them."""
    try:
        write_atomic(folder / ".probe", b"")
        (folder / ".probe").unlink()
        free = shutil.disk_usage(folder).free
    except OSError as e:
        raise UserError(f"{folder}: {e.strerror}; {option} needs a folder that can be written") from None
    if free < LEAST_FREE:
        raise UserError(f"{folder}: {free >> 20} MiB free; {option} needs at least {LEAST_FREE >> 20} MiB")


def cache_folder() -> Path:
    """What can be made again, shared by all trials of a user: `NASHBOARD_CACHE`, else the folder `nashboard` in
    `XDG_CACHE_HOME` or ~/.cache."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nashboard"
    return Path(os.environ.get("NASHBOARD_CACHE") or usual)


def use_own_compiler_folder() -> None:
    """Name a folder of this user's to torch, before it is imported: its compiler, though nothing here asks for it,
    makes one of a fixed name in the temporary folder, and fails where another user has put something in its place."""
    folder = cache_folder() / "torch"
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def is_full(e: BaseException | None) -> bool:
    """Whether a disk that is full, or turned read-only, is behind `e`."""
    if e is None:
        return False
    return isinstance(e, OSError) and e.errno in NO_ROOM or is_full(e.__context__)
