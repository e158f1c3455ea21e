"""Decoded pixels of a large dataset: written once, then mapped by every trial of a machine."""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import locks
from harness.disk import cache_folder, fresh, write_atomic
from harness.errors import UserError

REMEDY = "name another folder in NASHBOARD_CACHE"
_SAMPLES = 256
_check: ContextVar[Callable[[], None]] = ContextVar("check", default=lambda: None)


@dataclass(frozen=True)
class Cached:
    """A read-only map of the pixels, and what was recorded when they were written."""

    images: np.ndarray
    record: dict[str, Any]


@contextmanager
def answering(check: Callable[[], None]) -> Iterator[None]:
    """Within, `check` is called now and then while pixels are decoded, or waited for: what it raises ends either, and
    nothing half-made stays. Both may take an hour, in which a trial is asked to stop."""
    before = _check.set(check)
    try:
        yield
    finally:
        _check.reset(before)


def load(key: str, shape: tuple[int, ...]) -> Cached | None:
    """The pixels stored under `key`, if they are whole; None where they must be made (again).

    Checked are the size and the checksums of 256 images spread over the file: a cut or
    half-flushed file is found, without reading tens of GB at every start.
    """
    pixels, sidecar = _paths(key)
    try:
        record = json.loads(sidecar.read_text(encoding="utf-8"))
        if record["shape"] != list(shape) or pixels.stat().st_size != int(np.prod(shape, dtype=np.int64)):
            return None
        images = np.memmap(pixels, np.uint8, "r", shape=shape)
        return Cached(images, record) if record["checksums"] == _checksums(images) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(
    key: str, shape: tuple[int, ...], pieces: Iterable[np.ndarray], describe: Callable[[np.ndarray], dict[str, Any]]
) -> Cached:
    """Write `pieces` (uint8, together of `shape`) under `key`, unless another process has just done so.

    `describe(images) -> dict` is recorded beside the pixels. The files appear whole or not at all.
    """
    pixels, sidecar = _paths(key)
    part = pixels.with_suffix(".part")
    try:
        pixels.parent.mkdir(parents=True, exist_ok=True)
        check = _check.get()
        with locks.held(pixels.with_suffix(".lock"), REMEDY, check):
            if (found := load(key, shape)) is not None:
                return found
            _require_space(pixels.parent, int(np.prod(shape, dtype=np.int64)))
            try:
                with fresh(part) as f:  # plain writes: a full disk is an error here, not a SIGBUS in a map
                    for piece in pieces:
                        check()
                        f.write(np.ascontiguousarray(piece).data)
                    f.flush()
                    os.fsync(f.fileno())
                images = np.memmap(part, np.uint8, "r", shape=shape)
                record = {**describe(images), "shape": list(shape), "checksums": _checksums(images)}
                part.replace(pixels)
                write_atomic(sidecar, json.dumps(record).encode())
            finally:
                part.unlink(missing_ok=True)
    except OSError as e:
        raise UserError(
            f"cache: {pixels.parent}: {e.strerror or e}; free some space, or name another folder in NASHBOARD_CACHE"
        ) from None
    found = load(key, shape)
    if found is None:
        raise UserError(f"cache: {pixels}: reads back other than it was written; check the disk")
    return found


def _paths(key: str) -> tuple[Path, Path]:
    base = cache_folder() / "images" / key
    return base.with_suffix(".u8"), base.with_suffix(".json")


def _checksums(images: np.ndarray) -> list[int]:
    chosen = np.unique(np.linspace(0, len(images) - 1, _SAMPLES).astype(int))
    return [zlib.crc32(np.ascontiguousarray(images[i]).data) for i in chosen]


def _require_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"cache: {folder}: {size / 2**30:.1f} GiB of decoded images, {free / 2**30:.1f} GiB free; "
            "set dataset.max_images, or name another folder in NASHBOARD_CACHE"
        )
