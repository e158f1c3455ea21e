"""Files in CIFAR-10's genuine format: protocol-2 pickles as Python 2 wrote them, in a tar.gz."""

import io
import struct
import tarfile
from pathlib import Path

import numpy as np

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def _text(value: str) -> bytes:
    raw = value.encode("latin-1")
    return b"U" + bytes([len(raw)]) + raw if len(raw) < 256 else b"T" + struct.pack("<i", len(raw)) + raw


def _int(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    return b"M" + struct.pack("<H", value) if 0 <= value < 65536 else b"J" + struct.pack("<i", value)


def _list(items: list[bytes]) -> bytes:
    chunks = [items[i : i + 1000] for i in range(0, len(items), 1000)]
    return b"]" + b"".join(b"(" + b"".join(c) + b"e" for c in chunks)


def _array(images: np.ndarray) -> bytes:
    rows, columns = images.shape
    dtype = b"cnumpy\ndtype\n" + _text("u1") + _int(0) + _int(1) + b"\x87R"
    dtype += b"(" + _int(3) + _text("|") + b"NNN" + _int(-1) + _int(-1) + _int(0) + b"tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + _int(0) + b"\x85" + _text("b") + b"\x87R"
    return (
        made
        + b"("
        + _int(1)
        + _int(rows)
        + _int(columns)
        + b"\x86"
        + dtype
        + b"\x89"
        + (b"T" + struct.pack("<i", images.nbytes) + images.tobytes())
        + b"tb"
    )


def batch(images: np.ndarray, labels: list[int], title: str = "training batch 1 of 5") -> bytes:
    """One batch file: images uint8 [N, 3072]."""
    names = [_text(f"drawn_s_{i:06d}.png") for i in range(len(labels))]
    body = _text("batch_label") + _text(title) + _text("labels") + _list([_int(v) for v in labels])
    body += _text("data") + _array(images) + _text("filenames") + _list(names)
    return b"\x80\x02}q\x01(" + body + b"u."


def write_archive(path: Path, count: int, seed: int = 0) -> dict[str, tuple[np.ndarray, list[int]]]:
    """cifar-10-python.tar.gz at `path` with `count` random images per batch; returns what is in it."""
    rng = np.random.default_rng(seed)
    content = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name in BATCHES:
            images = rng.integers(0, 256, (count, 3072), np.uint8)
            content[name] = images, [int(v) for v in rng.integers(0, 10, count)]
            add(archive, f"cifar-10-batches-py/{name}", batch(*content[name]))
        add(archive, "cifar-10-batches-py/readme.html", b"<html>")
    return content


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
