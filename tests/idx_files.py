"""Fashion-MNIST's four files as a test writes them: the genuine format with few images."""

import gzip
import struct
from pathlib import Path

import numpy as np

COUNTS = {"train": 40, "t10k": 20}


def idx(array: np.ndarray) -> bytes:
    """uint8 array -> an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def content(half: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 28, 28], a noise of each one's own, and labels 0 to 9 in turn."""
    rng = np.random.default_rng(len(half))
    n = COUNTS[half]
    return rng.integers(0, 256, (n, 28, 28), np.uint8), (np.arange(n) % 10).astype(np.uint8)


def write(folder: Path, packed: bool = True) -> Path:
    """The four files in `folder`, with `.gz` or as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for half in COUNTS:
        for kind, array in zip(("images-idx3", "labels-idx1"), content(half), strict=True):
            name, data = f"{half}-{kind}-ubyte", idx(array)
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return folder
