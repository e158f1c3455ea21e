"""Images, ZIPs of them, and what every complaint about a file must look like."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.errors import UserError

ZIP = Path("../shared/data/noto-emoji-64.zip")


def png(array: np.ndarray, mode: str | None = None, **save: object) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(out, **{"format": "PNG", **save})  # type: ignore[arg-type]
    return out.getvalue()


def noise(seed: int, side: int = 16, channels: int = 3) -> np.ndarray:
    shape = (side, side, channels) if channels > 1 else (side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_zip(path: Path, files: dict[str, bytes], labels: object = None) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        for name, data in files.items():
            z.writestr(name, data)
        if labels is not None:
            z.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def pngs(count: int, side: int = 16) -> dict[str, bytes]:
    return {f"00000/img{i:08d}.png": png(noise(i, side)) for i in range(count)}


def one_line(error: pytest.ExceptionInfo[UserError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text and ":" in text and len(text) < 600
    for word in words:
        assert word in text
