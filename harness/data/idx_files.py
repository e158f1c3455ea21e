"""IDX, the format of MNIST and its kin: a magic number, the sizes, then unsigned bytes; packed by gzip or not.

http://yann.lecun.com/exdb/mnist (the format at the end of the page)
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from harness.errors import UserError, one_line

MAX_BYTES = 2**30
_UNSIGNED_BYTE = 0x08


def unpacked(path: Path, place: str) -> bytes:
    """The content of a file that may be packed by gzip, which its first bytes say, not its name."""
    try:
        with path.open("rb") as f:
            packed = f.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as f:
            data = f.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(f"{place}: {path}: not readable ({one_line(e)}); get the file again") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{place}: {path}: more than {MAX_BYTES} bytes; get the file again")
    return data


def parse(data: bytes, dimensions: int, place: str) -> np.ndarray:
    """An IDX file of unsigned bytes -> read-only uint8 array with `dimensions` axes."""
    head = 4 + 4 * dimensions
    if len(data) < head or data[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]):
        expected = int.from_bytes([0, 0, _UNSIGNED_BYTE, dimensions])
        raise UserError(
            f"{place}: begins with {int.from_bytes(data[:4])}, an IDX file of this kind with {expected}; "
            "get the file again"
        )
    shape = struct.unpack(f">{dimensions}I", data[4:head])
    if len(data) - head != math.prod(shape):
        raise UserError(
            f"{place}: holds {len(data) - head} bytes, its head says {' x '.join(map(str, shape))}; get the file again"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
